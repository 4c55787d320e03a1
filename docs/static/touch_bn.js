/* A BN layer with one channel, as PyTorch computes it. */
(() => {
  const box = document.querySelector("#touch-bn"), batches = JSON.parse(document.querySelector("#touch-bn-data").textContent);
  const [mean, width] = ["mean", "width"].map(name => box.querySelector(`input[name=${name}]`));
  const MOMENTUM = 0.1, EPS = 1e-5, LOW = -8, HIGH = 14;
  let number, running, counted;  // which batch; running mean and variance; how many were passed in train mode

  const average = values => values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values => average(values.map(value => (value - average(values)) ** 2));
  const normalise = (values, mean, variance) => values.map(value => (value - mean) / Math.sqrt(variance + EPS));
  const batch = () => batches[number % batches.length].map(value => +mean.value + width.value * value);
  const toward = (old, found) => (1 - MOMENTUM) * old + MOMENTUM * found;

  function follow(values) {  // the running variance follows the unbiased one
    const unbiased = variance(values) * values.length / (values.length - 1);
    running = [toward(running[0], average(values)), toward(running[1], unbiased)];
    counted += 1;
  }

  const place = value => 100 * (Math.min(Math.max(value, LOW), HIGH) - LOW) / (HIGH - LOW);
  function draw(values, middle, spread) {
    const dots = values.map((value, index) =>
      `<circle cx="${2 + place(value) * 1.96}" cy="${6 + 7 * index % 19}" r="1.8" ${value < LOW || value > HIGH ? 'class="beyond"' : ""}/>`);
    const [from, to, at] = [middle - spread, middle + spread, middle].map(value => 2 + place(value) * 1.96);
    return `<svg viewBox="0 0 200 34" aria-hidden="true"><path class="axis" d="M${2 + place(0) * 1.96} 2V30"/>${dots.join("")}
      <path class="bar" d="M${from} 30H${to}M${at} 27V33"/></svg>`;
  }

  function show(row, values, middle = average(values), spread = variance(values)) {
    const line = box.querySelector(`[data-row=${row}]`), picture = line.querySelector("span"), [first, second] = line.querySelectorAll("td");
    picture.innerHTML = draw(values, middle, Math.sqrt(spread));
    picture.dataset.values = JSON.stringify(values);
    first.textContent = (Math.round(100 * middle) / 100 || 0).toFixed(2);  // never -0.00
    second.textContent = spread.toFixed(2);
  }

  function update() {
    const values = batch();
    for (const input of [mean, width]) box.querySelector(`output[name=${input.name}]`).textContent = input.value;
    show("input", values);
    show("train", normalise(values, average(values), variance(values)));
    show("eval", normalise(values, ...running));
    show("running", [], ...running);
  }

  const say = text => { box.querySelector("[role=status]").textContent = text; };
  function begin() {
    [number, running, counted] = [0, [0, 1], 0];
    [mean.value, width.value] = [mean.defaultValue, width.defaultValue];
    say("A new layer: running mean 0, running variance 1.");
    update();
  }

  function next(follows) {
    if (follows) follow(batch());
    number += 1;
    update();
    say(`${counted} ${counted === 1 ? "batch" : "batches"} in train mode: the running statistics ` +
        (follows ? "went a tenth of the way to those of the batch." : "stayed, since eval mode only reads them."));
  }

  box.querySelector("[name=train]").onclick = () => next(true);
  box.querySelector("[name=eval]").onclick = () => next(false);
  box.querySelector("[name=again]").onclick = begin;
  for (const input of [mean, width]) input.oninput = update;
  box.querySelector("[hidden]").hidden = false;
  begin();
})();
