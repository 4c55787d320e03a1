/* Questions, lists of answers and folded solutions become radio buttons that are checked. */
for (const [number, solution] of document.querySelectorAll(".touch-quiz details").entries()) {
  const answers = solution.previousElementSibling, question = answers.previousElementSibling;
  const form = document.createElement("form"), box = form.appendChild(document.createElement("fieldset"));
  const legend = box.appendChild(document.createElement("legend"));
  legend.append(...question.childNodes);
  for (const [index, answer] of [...answers.children].entries()) {
    const label = box.appendChild(document.createElement("label")), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: `answer-${number}`, value: index, required: true });
    label.append(input, document.createElement("span"));
    label.lastChild.append(...(answer.querySelector("p") || answer).childNodes);
  }
  const button = box.appendChild(document.createElement("button"));
  button.textContent = "Check";
  const verdict = box.appendChild(document.createElement("p"));
  verdict.setAttribute("role", "status");
  form.onsubmit = event => {
    event.preventDefault();
    const why = solution.querySelectorAll("li")[box.querySelector(":checked").value];
    verdict.className = why.querySelector("strong") ? "right" : "wrong";
    verdict.innerHTML = (why.querySelector("strong") ? "" : "<strong>No.</strong> ") + (why.querySelector("p") || why).innerHTML;
  };
  form.onchange = () => { verdict.textContent = verdict.className = ""; };
  question.remove(), answers.remove();
  solution.replaceWith(form);
}
