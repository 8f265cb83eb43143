// The labelers' page: keys and buttons change a draft, which stays in the browser until the server has it.

import { most, next } from "./merge.js";
import { Refused, newKey, post } from "./server.js";
import { $, KEYS, letter, marks, message, progress, prompt, response, say, section } from "./view.js";

const settings = JSON.parse(document.body.dataset.settings);
const RENEW = 60000; // milliseconds between two renewals of a lease
let who = "";
let task = null;
let draft = null;
let history = [];
let busy = false;
let visibleSince = performance.now();

const place = (slot) => `rank-draft-${settings.store}-${who}-${slot}`; // a browser keeps drafts of many stores
const pairwise = () => draft.pairwise && next(task.responses.length, draft.comparisons).pair !== null;

function seconds() {
  if (document.visibilityState === "visible") {
    draft.seconds += (performance.now() - visibleSince) / 1000;
    visibleSince = performance.now();
  }
  return draft.seconds;
}

function keep() {
  seconds();
  try { localStorage.setItem(place(task.slot), JSON.stringify(draft)); } catch { /* a full or forbidden storage keeps no draft */ }
}

function newDraft() {
  const k = task.responses.length;
  const empty = { ranks: Array(k).fill(null), quality: Array(k).fill(null), flags: Array.from({ length: k }, () => []),
    comparisons: [], reason: "", seconds: 0, key: newKey(), pairwise: k >= settings.pairwise_from };
  let kept = null;
  try { kept = JSON.parse(localStorage.getItem(place(task.slot))); } catch { /* a damaged draft is none */ }
  const made = { ...empty, ...(kept || task.earlier || {}) };
  made.flags = made.flags.map((flags) => flags.filter((flag) => settings.flags.includes(flag))); // of another --page.flags
  return made;
}

function show(found) {
  who = found.progress.labeler;
  $("who").textContent = who;
  progress(found.progress);
  task = found.task;
  history = [];
  if (task === null) {
    section("nothing");
    $("again").focus();
    return;
  }
  draft = newDraft();
  visibleSince = performance.now();
  prompt(task.prompt);
  section("task");
  draw();
  window.scrollTo(0, 0);
  say(`New task with ${task.responses.length} responses.`);
}

function draw() {
  const k = task.responses.length;
  const asked = draft.pairwise ? next(k, draft.comparisons) : { pair: null, ranks: null };
  const pair = asked.pair;
  if (draft.pairwise && asked.ranks) draft.ranks = asked.ranks;
  const shown = pair || task.responses.keys();
  $("responses").replaceChildren(...Array.from(shown, (i) => response(i, task.responses[i], settings, pair ? null : k)));
  $("responses").dataset.k = pair ? 2 : k;
  $("pair-buttons").hidden = !pair;
  $("save").hidden = Boolean(pair);
  $("mode").hidden = k > KEYS;
  $("mode").firstChild.textContent = draft.pairwise ? "All at once " : "Two at a time ";
  $("asked").textContent = pair
    ? `Which is better? Comparison ${draft.comparisons.length + 1} of at most ${most(k)}.`
    : "Rank all responses: 1 is the best, equal ranks are ties.";
  marks(pair ? { ...draft, ranks: draft.ranks.map(() => null) } : draft); // earlier ranks would bias the comparisons
  const first = document.querySelector(".response");
  first.focus({ preventScroll: true });
}

function change(edit) {
  history.push(JSON.stringify(draft));
  edit();
  marks(draft);
  keep();
}

function current() {
  const made = document.activeElement?.closest(".response");
  return made ? Number(made.dataset.response) : null;
}

function setRank(i, rank) {
  const k = task.responses.length;
  if (i === null) return say("Go to a response first, with the arrow keys.");
  if (k > KEYS) return say("So many responses are compared two at a time; undo the comparisons with Z.");
  if (rank > k) return say(`Ranks go from 1 to ${k}.`);
  change(() => {
    draft.ranks[i] = rank;
    draft.comparisons = [];
    draft.pairwise = false;
  });
  $("mode").firstChild.textContent = "Two at a time ";
  const tied = draft.ranks.filter((other) => other === rank).length - 1;
  say(`Response ${letter(i)}: rank ${rank}${tied ? `, tied with ${tied} other${tied > 1 ? "s" : ""}` : ""}.`);
}

function setQuality(i, quality) {
  change(() => { draft.quality[i] = draft.quality[i] === quality ? null : quality; });
  say(`Response ${letter(i)}: quality ${draft.quality[i] ?? "not given"}.`);
}

function setFlag(i, flag, on) {
  change(() => { draft.flags[i] = draft.flags[i].filter((other) => other !== flag).concat(on ? [flag] : []); });
}

function compare(better) {
  const { pair } = next(task.responses.length, draft.comparisons);
  history.push(JSON.stringify(draft));
  draft.comparisons.push([...pair, better]);
  draw();
  keep();
  say($("asked").textContent);
}

function switchMode() {
  if (task.responses.length > KEYS) return;
  history.push(JSON.stringify(draft));
  draft.pairwise = !draft.pairwise;
  draft.comparisons = [];
  draw();
  keep();
}

function move(step) {
  const all = [...document.querySelectorAll(".response")];
  const at = all.findIndex((made) => made.contains(document.activeElement));
  all[at < 0 ? 0 : Math.min(Math.max(at + step, 0), all.length - 1)].focus();
}

function toggleMetadata() {
  const made = document.activeElement?.closest(".response");
  const details = made?.querySelector(".more");
  if (!details) return;
  details.open = !details.open;
  (details.open ? details.querySelector("button") : made).focus();
}

/** Sends something that changes the store, and shows what comes next. */
async function send(route, body) {
  if (busy) return;
  busy = true;
  message("");
  try {
    const found = await post(route, body, message);
    if (route === "answer") forget(body.slot);
    show(found);
  } catch (error) {
    await refused(error, body);
  } finally {
    busy = false;
  }
}

async function refused(error, body) {
  if (!(error instanceof Refused)) throw error;
  message(error.message);
  if (error.status === 401) return join();
  if (error.status === 409) {
    forget(body.slot);
    show(await post("task", {}, message));
  }
}

function forget(slot) {
  try { localStorage.removeItem(place(slot)); } catch { /* there is no storage */ }
}

function answer(kind, more = {}) {
  keep();
  return send("answer", { slot: task.slot, key: draft.key, kind, seconds: draft.seconds, ...more });
}

function save() {
  if (pairwise()) return say("Compare all pairs first.");
  const missing = draft.ranks.flatMap((rank, i) => (rank ? [] : [letter(i)]));
  if (missing.length) {
    message(`${missing.length === 1 ? "Response" : "Responses"} ${missing.join(", ")} still ${missing.length === 1 ? "needs" : "need"} a rank.`);
    document.querySelector(`[data-response="${draft.ranks.indexOf(null)}"]`)?.focus();
    return;
  }
  const { ranks, quality, flags, comparisons } = draft;
  answer("ranking", { ranks, quality, flags, comparisons });
}

function undo() {
  if (busy) return;
  message("");
  if (!task || !history.length) return send("undo", { key: newKey() });
  const { key } = draft;
  draft = { ...JSON.parse(history.pop()), key, seconds: seconds() };
  const at = current();
  draw();
  document.querySelector(`[data-response="${at}"]`)?.focus();
  keep();
  say("Undone.");
}

function cannotJudge() {
  $("reason").value = draft.reason;
  $("cannot-dialog").showModal();
  $("reason").focus();
}

function saveCannotJudge() {
  draft.reason = $("reason").value.trim();
  if (!draft.reason) { $("reason").focus(); return; }
  $("cannot-dialog").close();
  answer("cannot_judge", { reason: draft.reason });
}

function join() {
  section("join");
  $("name").focus();
}

const ACTIONS = { z: undo, s: () => answer("skip"), c: cannotJudge, m: toggleMetadata, p: switchMode };
const ARROWS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
const BETTER = { 1: -1, 2: 1, 0: 0, ArrowLeft: -1, ArrowRight: 1 };

function pressed(event) {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select, dialog");
  if (event.ctrlKey || event.altKey || event.metaKey || typing || busy) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = task === null ? { z: undo }[key] && !$("nothing").hidden && undo : onTask(event, key);
  if (!action) return;
  event.preventDefault();
  action();
}

/** What a key does; undefined leaves it to the browser. */
function onTask(event, key) {
  if (pairwise() && key in BETTER) return () => compare(BETTER[key]);
  const inside = event.target.closest(".more");
  if (key === "Escape" && inside) return () => inside.closest(".response").focus();
  if (/^[1-9]$/.test(key)) {
    if (!inside) return () => setRank(current(), Number(key));
    return Number(key) <= settings.qualities.length ? () => setQuality(current(), Number(key)) : undefined;
  }
  if (key === "Enter") return event.target.closest("button, summary, a") ? undefined : save;
  if (key in ARROWS) return () => move(ARROWS[key]);
  return event.repeat ? undefined : ACTIONS[key];
}

function clicked(event) {
  const button = event.target.closest("button");
  const made = event.target.closest(".response");
  if (busy || !button) return;
  if (button.dataset.better) compare(Number(button.dataset.better));
  else if (made && button.closest(".ranks")) setRank(Number(made.dataset.response), Number(button.dataset.value));
  else if (made && button.closest(".qualities")) setQuality(Number(made.dataset.response), Number(button.dataset.value));
}

function listen() {
  document.addEventListener("keydown", pressed);
  document.addEventListener("click", clicked);
  document.addEventListener("change", (event) => {
    const { flag } = event.target.dataset;
    if (flag) setFlag(current(), flag, event.target.checked);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") visibleSince = performance.now();
    else if (task) { draft.seconds += (performance.now() - visibleSince) / 1000; }
  });
  const actions = { save, undo, skip: () => answer("skip"), cannot: cannotJudge, mode: switchMode, back: undo,
    again: () => send("task", {}), "cannot-save": saveCannotJudge };
  for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", () => busy || action());
  $("join").addEventListener("submit", async (event) => {
    event.preventDefault();
    message("");
    try {
      await post("join", { name: $("name").value }, message);
      await send("task", {});
    } catch (error) { await refused(error, {}); }
  });
  setInterval(async () => {
    if (!task || busy || document.visibilityState !== "visible") return;
    const { slot } = task;
    try { await post("renew", { slot }, message); } catch (error) { if (task?.slot === slot) await refused(error, { slot }); }
  }, RENEW);
}

listen();
send("task", {});
