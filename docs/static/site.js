/* What scrolls by itself can be reached from the keyboard; captions of the menu say which level they are of. */
function mend() {
  for (const box of document.querySelectorAll("pre, .cell_output, .table-wrapper, div.math"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute("tabindex");
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.setAttribute("aria-level", "2");
}
addEventListener("DOMContentLoaded", mend);
addEventListener("resize", mend);
/* An explanation goes away on Escape, until it is asked for again. */
addEventListener("keydown", event => {
  if (event.key !== "Escape") return;
  for (const term of document.querySelectorAll(".term:is(:hover, :focus-within)")) {
    term.classList.add("dismissed");
    for (const left of ["mouseleave", "focusout"]) term.addEventListener(left, () => term.classList.remove("dismissed"), { once: true });
  }
});
