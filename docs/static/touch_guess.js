/* Ten images: a guess, the network's answer, and the right one. */
(() => {
  const box = document.querySelector("#touch-guess"), { classes, images } = JSON.parse(document.querySelector("#touch-guess-data").textContent);
  const find = selector => box.querySelector(selector), pictures = [...box.querySelectorAll("[data-part=gallery] img")];
  const buttons = [...box.querySelectorAll(".touch-answers button")], next = find("[name=next]"), end = find("[data-part=end]");
  let guesses;

  const score = answers => answers.filter((answer, index) => answer === images[index].right).length;

  function show() {
    const number = guesses.length;
    find(".touch-image").replaceChildren(pictures[number].cloneNode());
    find("[data-part=count]").textContent = `Image ${number + 1} of ${images.length}`;
    find("[role=status]").textContent = "";
    next.hidden = true;
    for (const button of buttons) button.disabled = false;
  }

  function guess(answer) {
    const { right, said, sure } = images[guesses.length];
    guesses.push(answer);
    for (const button of buttons) button.disabled = true;
    find("[role=status]").textContent = `${answer === right ? "Right" : "No"}: ${classes[right]}. ` +
      `The network said ${classes[said]}, ${sure > 0.99 ? "over 99" : Math.round(100 * sure)}% sure${said === right ? "" : ", and is wrong"}.`;
    next.textContent = guesses.length < images.length ? "Next image" : "The result";
    next.hidden = false;
    next.focus();
  }

  function finish() {
    const rows = images.map(({ right, said }, index) => {
      const sign = answer => `<td>${classes[answer]}${answer === right ? "" : " (wrong)"}</td>`;
      return `<tr><th scope="row">${pictures[index].outerHTML}</th><td>${classes[right]}</td>${sign(guesses[index])}${sign(said)}</tr>`;
    });
    end.innerHTML = `<p tabindex="-1"><strong>You ${score(guesses)}, the network ${score(images.map(image => image.said))}.</strong></p>
      <table><thead><tr><th scope="col">Image</th><th scope="col">Pattern</th><th scope="col">You</th><th scope="col">Network</th></tr></thead>
      <tbody>${rows.join("")}</tbody></table><p><button type="button">Play again</button></p>`;
    end.querySelector("button").onclick = () => { begin(); buttons[0].focus(); };
    for (const [part, hidden] of [[".touch-game", true], ["[data-part=end]", false], ["[data-part=mistakes]", false]]) find(part).hidden = hidden;
    end.querySelector("p").focus();
  }

  function begin() {
    guesses = [];
    for (const [part, hidden] of [[".touch-game", false], ["[data-part=end]", true], ["[data-part=mistakes]", true], ["[data-part=gallery]", true]]) find(part).hidden = hidden;
    show();
  }

  for (const [number, button] of buttons.entries()) button.onclick = () => guess(number);
  next.onclick = () => {
    if (guesses.length === images.length) return finish();
    show();
    buttons[0].focus();
    find(".touch-image").scrollIntoView({ block: "nearest" });
  };
  begin();
})();
