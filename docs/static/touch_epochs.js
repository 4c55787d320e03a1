/* A slider through the epochs of three training runs. */
(() => {
  const box = document.querySelector("#touch-epochs"), slider = box.querySelector("input"), shown = box.querySelector("output[name=epoch]");
  const recipes = JSON.parse(document.querySelector("#touch-epochs-data").textContent);

  function show() {
    const epoch = +slider.value;
    shown.textContent = epoch;
    for (const panel of box.querySelectorAll("[data-recipe]")) {
      const recipe = recipes[panel.dataset.recipe], points = recipe.points[epoch];
      for (const [index, point] of panel.querySelectorAll("path").entries())
        point.style.transform = `translate(${points[2 * index]}px,${-points[2 * index + 1]}px)`;
      for (const output of panel.querySelectorAll("output")) output.textContent = `${Math.round(100 * recipe[output.dataset.of][epoch])}%`;
    }
  }

  slider.oninput = show;
  slider.value = 0;
  for (const hidden of box.querySelectorAll("[hidden]")) hidden.hidden = false;
  show();
})();
