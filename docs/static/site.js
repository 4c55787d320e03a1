/* What scrolls by itself can be reached from the keyboard; captions of the menu say which level they are of; the link that skips the menu moves
   the focus to the article. */
function mend() {
  for (const box of document.querySelectorAll("pre, .cell_output, .table-wrapper, div.math"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute("tabindex");
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.setAttribute("aria-level", "2");
  document.getElementById("furo-main-content").tabIndex = -1;
}

/* A link to a definition opens the code in which it is. */
function unfold() {
  const fold = document.getElementById(location.hash.slice(1))?.parentElement.nextElementSibling?.querySelector("details.fold");
  if (location.hash.startsWith("#define-") && fold) fold.open = true;
}

addEventListener("DOMContentLoaded", () => { mend(); unfold(); });
addEventListener("resize", mend);
addEventListener("hashchange", unfold);

/* An explanation goes away on Escape, until it is asked for again. */
addEventListener("keydown", event => {
  if (event.key !== "Escape") return;
  for (const term of document.querySelectorAll(".term:is(:hover, :focus-within)")) {
    term.classList.add("dismissed");
    for (const left of ["mouseleave", "focusout"]) term.addEventListener(left, () => term.classList.remove("dismissed"), { once: true });
  }
});
