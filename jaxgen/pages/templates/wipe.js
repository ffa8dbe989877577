
"use strict";
// Before and after, one over the other: a slider says from where on the second is seen. Without this script both are
// there, side by side.
for (const view of document.querySelectorAll("[data-wipe]")) {
  const slider = view.querySelector("input[type=range]");
  const show = () => view.style.setProperty("--at", slider.value + "%");
  slider.value = 50;  // a browser may remember where it stood
  slider.addEventListener("input", show);
  show();
  view.classList.add("stacked");
  slider.closest(".time").hidden = false;
}
