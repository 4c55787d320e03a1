/* What scrolls by itself can be reached from the keyboard; captions of the menu say which level they are of. */
function mend() {
  for (const box of document.querySelectorAll("pre, .cell_output, .table-wrapper, div.math"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute("tabindex");
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.setAttribute("aria-level", "2");
}
addEventListener("DOMContentLoaded", mend);
addEventListener("resize", mend);
