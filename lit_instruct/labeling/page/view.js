// Builds what the page shows. Every text goes in as text, never as HTML.

export const $ = (id) => document.getElementById(id);
export const KEYS = 9; // digits that give a rank
export const letter = (i) => (i < 26 ? String.fromCharCode(65 + i) : `${i + 1}`);

/** An element with attributes and children; a string child is text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Shows one of the sections join, task and nothing. */
export function section(name) {
  for (const id of ["join", "task", "nothing"]) $(id).hidden = id !== name;
}

/** The turns of the prompt. */
export function prompt(turns) {
  const shown = turns.map((turn) => {
    const role = turns.length > 1 ? [element("div", { class: "role" }, turn.role)] : [];
    return element("div", { class: "turn" }, ...role, element("div", { class: "text" }, turn.text));
  });
  $("prompt").replaceChildren(...shown);
}

/**
 * One response.
 * @param {number} i its place
 * @param {string} text
 * @param {object} settings of the page
 * @param {?number} k number of responses; null shows no buttons for ranks, quality and flags
 */
export function response(i, text, settings, k) {
  const name = `Response ${letter(i)}`;
  const head = element("header", {}, element("h3", { class: "letter" }, name), element("span", { class: "rank" }));
  const made = element("article", { class: "response", tabindex: "0", "data-response": i, "aria-label": name },
    head, element("div", { class: "text" }, text));
  if (k !== null && k <= KEYS) made.append(buttons("ranks", `Rank of ${name}`, k, (n) => `rank ${n}`));
  if (k !== null) made.append(metadata(i, name, settings));
  return made;
}

function buttons(kind, label, count, spoken) {
  const row = element("div", { class: kind, role: "group", "aria-label": label });
  for (let n = 1; n <= count; n += 1) {
    row.append(element("button", { type: "button", "data-value": n, "aria-pressed": "false", "aria-label": spoken(n),
      tabindex: kind === "ranks" ? "-1" : "0" }, `${n}`));
  }
  return row;
}

function metadata(i, name, settings) {
  const summary = element("summary", {}, "Quality and flags ", element("kbd", {}, "M"));
  const flags = settings.flags.map((flag) => element("label", {},
    element("input", { type: "checkbox", "data-flag": flag }), element("span", {}, flag)));
  const most = settings.qualities.length;
  return element("details", { class: "more" }, summary,
    element("div", {}, `Overall quality, ${most} is the best`),
    buttons("qualities", `Overall quality of ${name}`, most, (n) => `quality ${n} of ${most}`),
    element("div", { class: "flags", role: "group", "aria-label": `Flags of ${name}` }, ...flags));
}

/** Writes ranks, qualities and flags into the responses that are shown. */
export function marks(draft) {
  const best = Math.min(...draft.ranks.filter((rank) => rank));
  for (const made of document.querySelectorAll(".response")) {
    const i = Number(made.dataset.response);
    const rank = draft.ranks[i];
    const tied = rank && draft.ranks.filter((other) => other === rank).length > 1;
    const words = rank ? `rank ${rank}${tied ? ", tied" : ""}` : "no rank yet";
    made.querySelector(".rank").textContent = words;
    made.setAttribute("aria-label", `Response ${letter(i)}, ${words}`);
    made.classList.toggle("ranked", Boolean(rank));
    made.classList.toggle("best", rank === best);
    press(made.querySelectorAll(".ranks button"), rank);
    press(made.querySelectorAll(".qualities button"), draft.quality[i]);
    for (const box of made.querySelectorAll("[data-flag]")) box.checked = draft.flags[i].includes(box.dataset.flag);
  }
}

function press(row, value) {
  for (const button of row) button.setAttribute("aria-pressed", String(Number(button.dataset.value) === value));
}

/** How far the labeler and all labelers are. */
export function progress(found) {
  const parts = [`${found.done} by you`, `${found.all_done} of ${found.all_wanted} by all`];
  if (found.median_seconds !== null) parts.push(`${Math.round(found.median_seconds)} s a task (median)`);
  if (found.self_agreement !== null) {
    parts.push(`on repeated tasks you agree with yourself in ${Math.round(100 * found.self_agreement)} % of ${found.self_pairs} pairs`);
  }
  $("progress").textContent = parts.join(" · ");
  $("bar").hidden = false;
  $("bar").max = Math.max(found.all_wanted, 1);
  $("bar").value = found.all_done;
}

/** A message that stays, or none for "". */
export function message(sentence) {
  $("message").textContent = sentence;
  $("message").hidden = !sentence;
}

/** Words for a screen reader alone. */
export function say(words) {
  $("spoken").textContent = words;
}
