"use strict";
// Shows the samples that contain every word of the search; without words those that the page opened with.
const field = document.getElementById("search");
const samples = Array.from(document.querySelectorAll("article.sample"), (element) => ({
  element,
  first: !element.hidden,
  text: element.textContent.toLowerCase(),
}));
const count = document.getElementById("found");

function search() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const sample of samples) {
    const shown = words.length ? words.every((word) => sample.text.includes(word)) : sample.first;
    sample.element.hidden = !shown;
    found += shown ? 1 : 0;
  }
  count.textContent = words.length ? `${found} of ${samples.length} samples` : "";
}

field.addEventListener("input", search);
field.parentElement.hidden = false;
search();
