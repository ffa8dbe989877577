
"use strict";
// A slider over the pictures of one kind. Without this script they are all there, one beside the other.
for (const view of document.querySelectorAll("[data-time]")) {
  const slider = view.querySelector("input[type=range]");
  if (!slider) continue;
  const large = view.querySelector(".large img");
  const caption = view.querySelector(".large figcaption");
  const frames = [...view.querySelectorAll(".strip img"), large].map((image) => ({
    source: image.src, words: image.alt, label: image.dataset.label,
  }));
  const show = () => {
    const frame = frames[slider.valueAsNumber];
    large.src = frame.source;
    large.alt = frame.words;
    caption.textContent = frame.label;
    slider.setAttribute("aria-valuetext", frame.label);
  };
  slider.value = slider.max;  // a browser may remember where it stood on an older page
  slider.addEventListener("input", show);
  show();
  slider.closest(".time").hidden = false;
  view.querySelector(".strip").open = false;
}
