"use strict";
// Asks which parts of the page have changed and replaces those, unless nobody looks at the page.
const parts = document.getElementById("parts");
const updated = document.getElementById("updated");
const offline = document.getElementById("offline");
const refresh = 1000 * Number(parts.dataset.refresh);

async function answer(path) {
  const response = await fetch(path);
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error(told.error || `The server answered with an error (${response.status}).`);
  }
  return response.json();
}

async function replacePart(id) {
  const part = await answer(`parts/${id}`);
  let section = document.getElementById(id);
  if (section === null) {
    section = document.createElement("section");
    section.id = id;
  }
  section.innerHTML = part.html; // texts of data are escaped by the server, and the page's policy runs no other script
  section.dataset.digest = part.digest;
  return section;
}

async function update() {
  const found = await answer("parts");
  const sections = [];
  for (const [id, digest] of found) {
    const known = document.getElementById(id);
    sections.push(known !== null && known.dataset.digest === digest ? known : await replacePart(id));
  }
  const same = sections.length === parts.children.length && sections.every((one, i) => one === parts.children[i]);
  if (!same) parts.replaceChildren(...sections);
}

async function again() {
  if (!document.hidden) {
    try {
      await update();
      updated.textContent = `read at ${new Date().toLocaleTimeString()}`;
      offline.hidden = true;
    } catch (error) {
      const away = error instanceof TypeError;
      const said = away ? "The server does not answer: lit-instruct watch has ended, or the connection is lost." : error.message;
      if (offline.textContent !== said) offline.textContent = said;
      offline.hidden = false;
    }
  }
  setTimeout(again, refresh);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) update().catch(() => {}); });
setTimeout(again, refresh);
