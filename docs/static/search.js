/* The search. A page counts by its title and keywords, then by headings and names, then by its text; `docs/keywords.txt` has what people type. */
const stems = new Map(), stemmer = new Stemmer();
const WEIGHTS = { 0: 1, 1: 1, 4: 1, 3: 0.95, 2: 0.85, 9: 0.9, 5: 0.8, 6: 0.8, 7: 0.8, 8: 0.8 };  // by the part of the book
const MOST = 30;

const split = text => text.toLowerCase().split(/[^\p{L}\p{N}_]+/u).filter(Boolean);
function stem(word) {
  if (!stems.has(word)) stems.set(word, word.includes("_") ? word : stemmer.stemWord(word));
  return stems.get(word);
}
function meaning(text) {
  const words = split(text), kept = words.filter(word => !stopwords.has(word));
  return [...new Set((kept.length ? kept : words).map(stem))];
}

const spread = new Map();  // word: in how many pages it is
for (const page of PAGES) {
  page.title = page.sections[0].heading;
  page.weight = page.number ? WEIGHTS[page.number[0]] : { index: 0.8, commands: 0.9, changelog: 0.4 }[page.page] ?? 0.6;
  page.phrases = [page.title, ...page.keywords].map(meaning);
  page.words = new Set(page.phrases.flat());
  for (const section of page.sections) {
    section.counts = new Map();
    for (const word of [...split(section.heading), ...split(section.text), ...split(section.code), ...section.defines.map(name => name.toLowerCase())]) {
      section.counts.set(stem(word), (section.counts.get(stem(word)) ?? 0) + 1);
      page.words.add(stem(word));
    }
  }
  for (const word of page.words) spread.set(word, (spread.get(word) ?? 0) + 1);
}

/* How well a phrase says what was asked: 1 if it is made of the same words. */
function likeness(asked, phrase) {
  const shared = phrase.filter(word => asked.some(each => each.has(word))).length;
  return shared * shared / (asked.length * phrase.length || 1);
}

/* Each word that was typed, as a set: the word, or the known words that begin with it or contain it. */
function understand(query) {
  return meaning(query).map(word => {
    if (spread.has(word)) return new Set([word]);
    const known = [...spread.keys()], begun = known.filter(each => each.startsWith(word));
    return new Set(begun.length ? begun : word.length > 2 ? known.filter(each => each.includes(word)) : []);
  });
}

function textScore(asked, counts) {
  let score = 0;
  for (const words of asked) {
    let count = 0, rarity = 0;
    for (const word of words) if (counts.has(word)) {
      count += counts.get(word);
      rarity = Math.max(rarity, Math.log(1 + PAGES.length / spread.get(word)));
    }
    score += rarity * count / (count + 3);
  }
  return score;
}

function rate(page, asked, name) {
  const phrase = Math.max(...page.phrases.map(each => likeness(asked, each)));
  let best, most = -1, score = 0;
  for (const section of page.sections) {
    const named = section.defines.find(each => each.toLowerCase() === name);
    const heading = section.heading.toLowerCase() === name ? 2 : section === page.sections[0] ? 0 : likeness(asked, meaning(section.heading));
    const text = textScore(asked, section.counts), value = 20 * heading + (named ? 40 : 0) + 3 * text;
    score = Math.max(score, value) + text / 10;
    if (value > most) [best, most] = [{ section, anchor: named ? `define-${named}` : section.anchor }, value];
  }
  if (likeness(asked, page.phrases[0]) === 1) best = { section: page.sections[0] };
  return { page, ...best, score: page.weight * (60 * phrase + score) };
}

function find(query) {
  const asked = understand(query), name = split(query).join("_");
  if (!asked.length) return { asked, results: [] };
  const holds = page => words => [...words].some(word => page.words.has(word));
  const all = PAGES.filter(page => asked.every(holds(page)));
  const pages = all.length ? all : PAGES.filter(page => asked.some(holds(page)));
  return { asked, results: pages.map(page => rate(page, asked, name)).sort((a, b) => b.score - a.score) };
}

/* The part of a section in which most of the words stand together; its beginning, where its heading has them all. */
function passage({ heading, text }, asked) {
  const named = new Set(split(heading).map(stem)), sentences = text.split(/(?<=[.?!]) /);
  const rates = sentences.map(each => {
    const words = new Set(split(each).map(stem));
    return asked.filter(set => [...set].some(word => words.has(word))).length;
  });
  const start = asked.every(words => [...words].some(word => named.has(word))) ? 0 : rates.indexOf(Math.max(...rates));
  const found = sentences.slice(start).join(" ");
  return (start ? "… " : "") + (found.length > 260 ? found.slice(0, found.lastIndexOf(" ", 250)) + " …" : found);
}

function mark(element, text, asked) {
  for (const part of text.split(/([\p{L}\p{N}_]+)/u)) {
    const hit = part && asked.some(words => words.has(stem(part.toLowerCase())));
    element.append(hit ? Object.assign(document.createElement("mark"), { textContent: part }) : part);
  }
}

function show({ page, section, anchor }, asked) {
  const item = document.createElement("li"), title = document.createElement("a"), context = document.createElement("p");
  title.href = `${page.page}.html`;
  mark(title, `${page.number} ${page.title}`.trim(), asked);
  if (section !== page.sections[0]) {
    const place = Object.assign(document.createElement("a"), { href: `${page.page}.html#${anchor}` });
    mark(place, section.heading, asked);
    context.append(place, " ");
  }
  context.className = "context";
  mark(context, passage(section.text ? section : page.sections[0], asked), asked);
  item.append(title, context);
  return item;
}

function search(query) {
  const { asked, results } = find(query), list = document.querySelector("ul.search");
  list.replaceChildren(...results.slice(0, MOST).map(result => show(result, asked)));
  const more = results.length > MOST ? `, of which these ${MOST} fit best` : "";
  document.querySelector(".search-summary").textContent = !query.trim() ? "" : !results.length ? "No page has these words." :
    `${results.length} page${results.length === 1 ? "" : "s"}${more}`;
  list.onclick = () => localStorage.setItem("sphinx_highlight_terms", split(query).filter(word => !stopwords.has(word)).join(" "));
}

const field = document.querySelector(".search-form input"), typed = new URLSearchParams(location.search).get("q") ?? "";
for (const input of document.querySelectorAll("input[name=q]")) input.value = typed;
field.addEventListener("input", () => search(field.value));
search(typed);
