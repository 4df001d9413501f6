"use strict";
// Shows the server's state, and sends one answer after another. An answer is kept in this browser until the server has
// written it, so that a lost connection, a closed laptop or a killed server costs none.
const token = document.body.dataset.token, at = id => document.getElementById(id);
let state = null, chosen = null, reachable = true, sending = false;
const pending = [], done = [];  // what waits for the server; what this tab can undo
const notes = { connection: "", answer: "" };
let store = null;
try { store = window.localStorage; store.getItem("layergraft"); } catch { store = null; }

async function ask(address, body) {
  const headers = { "X-Layergraft-Token": token };
  const options = body ? { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) } : { headers };
  const reply = await fetch(address, { ...options, signal: AbortSignal.timeout(40000) });  // a tunnel may be gone without a word
  return { status: reply.status, content: await reply.json() };
}

const make = (tag, properties = {}, ...children) => { const one = Object.assign(document.createElement(tag), properties); one.append(...children); return one; };
const percent = share => Math.round(100 * share) + " %";
const rate = share => +(100 * share).toPrecision(3) + " %";
const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
const sleepUntilSeen = () => new Promise(resolve => document.addEventListener("visibilitychange", resolve, { once: true }));
const say = text => { at("said").textContent = text; };
const folder = () => `layergraft-label:${state.project}:`;

function cards() {  // without those whose answer is on its way; one whose undo is on its way stands in front
  const waiting = new Map(pending.map(one => [one.path, one]));
  return state.cards.filter(card => !waiting.has(card.path) || waiting.get(card.path).back);
}
function current() {
  const shown = cards();
  return shown.find(card => card.path === chosen) ?? shown[0] ?? null;
}

function classes() {  // with new ones whose first answer is on its way: their keys work at once
  const known = [...state.classes];
  for (const one of pending) if (one.label && !known.some(other => other.name === one.label)) known.push({ name: one.label, labels: 0, guesses: null });
  return known;
}

// ---- answers

function queue(one) {
  one.id = `${Date.now()}-${Math.random().toString(36).slice(2)}`;
  pending.push(one);
  if (store && one.to === "/answer") try { store.setItem(folder() + one.id, JSON.stringify(one)); } catch { /* full: it waits in memory */ }
  notes.answer = "";
  render();
  send();
}

function give(label) {
  const card = current(), text = label.trim();
  if (!card || !text) return;
  const after = cards(), place = after.indexOf(card);
  done.push({ to: "/answer", path: card.path, label: text, before: "" });
  chosen = after[place + 1]?.path ?? null;
  at("text").value = "";
  at("large").close();
  queue({ to: "/answer", path: card.path, label: text, before: "" });
  say(`${text}. ${describe()}`);
  rest();
}

function skip() {
  const card = current();
  if (!card) return;
  const after = cards(), place = after.indexOf(card);
  done.push({ to: "/skip", path: card.path, label: "", before: "" });
  chosen = after[place + 1]?.path ?? null;
  queue({ to: "/skip", path: card.path });
  say(`Skipped. ${describe()}`);
  rest();
}

function undo() {
  const last = done.pop();
  if (!last) return;
  chosen = last.path;
  queue(last.to === "/skip" ? { to: "/skip", path: last.path, back: true } : { to: "/answer", path: last.path, label: "", before: last.label, back: true });
  say("Undone.");
  rest();
}

async function send() {  // one at a time, in order
  if (sending) return;
  sending = true;
  while (pending.length) {
    const one = pending[0];
    if (one.adopted && store.getItem(folder() + one.id) === null) { pending.shift(); continue; }  // another tab has sent it
    let reply = null;
    try { reply = await ask(one.to, one); } catch { /* not there */ }
    if (reply === null || reply.status === 503) { connection(false); await pause(1000); continue; }
    if (reply.status === 403) { foreign(); await pause(3000); continue; }
    connection(true);
    pending.shift();
    store?.removeItem(folder() + one.id);
    if (reply.status === 200) take(reply.content);
    else {
      const mine = done.findLastIndex(other => other.path === one.path);
      if (mine >= 0) done.splice(mine, 1);
      notes.answer = reply.status !== 409 ? reply.content.error
        : reply.content.label ? `${one.path} is “${reply.content.label}” by now, from another tab or program; your answer was not written.`
        : `The label of ${one.path} was taken away by another tab or program; your answer was not written.`;
    }
    render();
  }
  sending = false;
}

function adopt() {  // what an earlier page could not send
  if (!store) return;
  for (const name of Object.keys(store).filter(key => key.startsWith(folder())).sort())
    try { pending.push({ ...JSON.parse(store.getItem(name)), adopted: true }); } catch { store.removeItem(name); }
  if (pending.length) send();
}

function connection(works) {
  reachable = works;
  notes.connection = works ? "" : "The server cannot be reached. Answers wait in this browser and are sent when it is back.";
  render();
}
function foreign() {
  reachable = false;
  notes.connection = "The server was started again. Open the address that it printed; answers that wait here are sent then.";
  render();
}

// ---- what the server says

function take(news) {
  if (state && news.version < state.version && news.project === state.project) return;
  state = news;
  render();
  document.documentElement.dataset.fitted = news.fitted;
}

async function listen() {
  for (;;) {
    if (document.hidden && state) await sleepUntilSeen();
    try {
      const reply = await ask(`/state?since=${state && reachable ? state.version : ""}`);
      if (reply.status === 403) { foreign(); await pause(3000); continue; }
      if (reply.status !== 200) throw new Error(reply.content.error);
      if (!reachable) { state = null; connection(true); }
      const first = state === null;
      take(reply.content);
      if (first && !done.length) done.push(...state.answered.map(([path, label]) => ({ to: "/answer", path, label })));
      if (first && !pending.length) adopt();
      if (first) render();
    } catch { connection(false); await pause(1000); }
  }
}

// ---- the page

function describe() {
  const card = current();
  if (!card) return "No image is left.";
  if (!card.guess) return `Next: ${card.path}.`;
  return `Next: ${card.guess}?` + (card.certainty === undefined ? "" : ` ${percent(card.certainty)} sure.`);
}

function render() {
  const text = [notes.connection, notes.answer, state?.note].filter(Boolean).join(" ");
  at("trouble").hidden = !text;
  if (at("trouble").textContent !== text) at("trouble").textContent = text;
  if (!state) return;
  const waiting = pending.filter(one => one.to === "/answer").length;
  const card = current();
  at("progress").textContent = state.labelled < state.goal ? `${state.labelled} of ${state.goal} labels` : `${state.labelled} labels, goal ${state.goal}`;
  at("share").value = Math.min(1, state.labelled / state.goal);
  at("saved").textContent = waiting ? `${waiting} not saved yet` : state.labelled ? "saved" : "";
  at("undo").disabled = !done.length;
  at("skip").disabled = !card;
  renderCard(card);
  renderClasses(card);
  renderNext(card);
  renderQuality();
}

function show(image, address) {
  if (image.dataset.address === address) return;
  image.dataset.address = address;
  image.onload = () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < 128);
  if (address) image.src = address; else image.removeAttribute("src");
}

function renderCard(card) {
  const nothing = state.exhausted ? "No image is left to pick: all others are labelled, skipped, or near-duplicates of labelled ones." : "Picking images …";
  show(at("picture"), card ? `/image/${card.row}` : "");
  at("picture").alt = card ? card.path : "";
  at("zoom").hidden = !card;
  at("name").textContent = card ? card.path : nothing;
  at("guess").replaceChildren();
  if (!card?.guess) return;
  const sure = card.certainty === undefined ? "" : `, ${percent(card.certainty)} sure`;
  at("guess").append(make("b", { textContent: card.guess + "?" }), sure);
}

function renderClasses(card) {
  const typed = at("text").value.trim(), fitting = matches(typed);
  const list = at("classes"), names = classes().map(one => one.name).join("\0");
  if (list.dataset.names !== names) {
    list.dataset.names = names;
    list.replaceChildren(...classes().map((one, number) => make("li", {}, make("button", { type: "button", onclick: () => give(one.name) },
      make("kbd", { textContent: number + 1, className: number < 9 ? "" : "none" }), make("span", { textContent: one.name }), make("small", { title: "labels" }), make("small", { title: "of the others, by the classifier" })))));
  }
  classes().forEach((one, number) => {
    const item = list.children[number];
    item.classList.toggle("guessed", card?.guess === one.name);
    item.hidden = typed !== "" && !fitting.includes(one.name);
    const [given, guessed] = item.querySelectorAll("small");
    given.textContent = one.labels;
    guessed.textContent = one.guesses === null ? "" : `${one.guesses.toLocaleString("en")} guessed`;
    item.querySelector("button").disabled = !card;
  });
  at("meant").textContent = !typed ? "" : fitting.length ? `Enter: ${fitting[0]}.` + (exact(typed) ? "" : ` Shift+Enter: a new class, ${typed}.`) : `Enter: a new class, ${typed}.`;
}

const exact = typed => classes().some(one => one.name === typed);
function matches(typed) {  // the class of this name, then those that begin so
  if (!typed) return [];
  const names = classes().map(one => one.name), small = typed.toLowerCase();
  return [...names.filter(name => name === typed), ...names.filter(name => name !== typed && name.toLowerCase().startsWith(small))];
}

function renderNext(card) {
  const list = at("next"), old = new Map([...list.children].map(item => [item.dataset.path, item]));
  const items = cards().map(one => {
    const item = old.get(one.path) ?? make("li", {}, make("button", { type: "button", onclick: () => { chosen = one.path; render(); rest(); } }, make("img", { alt: "" }), make("span")));
    item.dataset.path = one.path;
    show(item.querySelector("img"), `/image/${one.row}`);
    const sure = one.certainty === undefined ? "" : percent(one.certainty);
    item.querySelector("span").replaceChildren(one.guess ? one.guess + "?" : "", make("small", { textContent: sure }));
    item.querySelector("button").setAttribute("aria-label", `${one.path}${one.guess ? `, ${one.guess}? ${sure}` : ""}`);
    item.hidden = one.path === card?.path;
    return item;
  });
  if (items.length !== list.children.length || items.some((item, number) => list.children[number] !== item)) list.replaceChildren(...items);
}

function renderQuality() {
  const last = state.curve.at(-1);
  at("verdict").textContent = last
    ? `About ${Math.round(last.accuracy)} % are right with ${last.labels} labels (95 % interval ${Math.round(last.low)} to ${Math.round(last.high)} %).`
    : "From ten labels of two classes on, this says how many are right.";
  at("sure").textContent = !last || state.sure === null ? "" : state.labelled < state.least
    ? `At an error rate of ${rate(state.error)} no image can be sure before ${state.least} labels.`
    : `${state.sure.toLocaleString("en")} of the ${state.others.toLocaleString("en")} other images are sure at an error rate of ${rate(state.error)}.`;
  at("advice").textContent = state.advice;
  at("advice").classList.toggle("enough", state.enough);
  const key = JSON.stringify([state.curve, at("curve").clientWidth]);
  if (at("curve").dataset.key === key) return;
  at("curve").dataset.key = key;
  if (state.curve.length > 1) draw(state.curve); else at("curve").replaceChildren();
}

function draw(points) {
  const width = Math.max(240, at("curve").clientWidth), height = 190, left = 44, bottom = 26, space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const add = (tag, values, text) => { const one = document.createElementNS(space, tag); for (const [name, value] of Object.entries(values)) one.setAttribute(name, value); if (text !== undefined) one.textContent = text; svg.append(one); };
  const from = points[0].labels, to = points.at(-1).labels;
  const x = labels => left + (width - left - 14) * (labels - from) / Math.max(1, to - from), y = value => 8 + (height - bottom - 8) * (1 - value / 100);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  for (const value of [0, 50, 100]) {
    add("line", { x1: left, x2: width - 14, y1: y(value), y2: y(value), class: "grid" });
    add("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, `${value} %`);
  }
  add("text", { x: x(from), y: height - 6, "text-anchor": "start" }, `${from}`);
  add("text", { x: x(to), y: height - 6, "text-anchor": "end" }, `${to} labels`);
  const path = list => list.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
  add("polygon", { class: "band", points: path([...points.map(p => [x(p.labels), y(p.high)]), ...[...points].reverse().map(p => [x(p.labels), y(p.low)])]) });
  add("polyline", { class: "line", points: path(points.map(p => [x(p.labels), y(p.accuracy)])) });
  add("circle", { class: "dot", r: 4, cx: x(to), cy: y(points.at(-1).accuracy) });
  at("curve").replaceChildren(svg);
  at("curve").setAttribute("aria-label", `Estimated accuracy over the number of labels: ${points.filter((_, n) => n === points.length - 1 || n % Math.ceil(points.length / 6) === 0).map(p => `${p.labels} labels ${Math.round(p.accuracy)} %`).join(", ")}`);
}

// ---- keys

function rest() { if (!at("large").open) at("current").focus({ preventScroll: true }); }

function enlarge() {
  const card = current();
  if (!card) return;
  show(at("whole"), `/image/${card.row}?large`);
  at("whole").alt = card.path;
  at("large").showModal();
}

function move(step) {
  const shown = cards(), place = shown.indexOf(current());
  const next = shown[place + step];
  if (next) { chosen = next.path; render(); rest(); say(describe()); }
}

document.addEventListener("keydown", event => {
  if (!state || event.altKey || event.metaKey || event.isComposing) return;
  const typing = event.target === at("text");
  if (event.ctrlKey) { if (event.key === "z" && !typing) { event.preventDefault(); undo(); } return; }
  if (typing) return typed(event);
  const control = event.target.closest("button, summary");
  if ((event.key === "Enter" || event.key === " ") && control) return;
  const open = at("large").open;
  if (/^[1-9]$/.test(event.key)) { const one = classes()[event.key - 1]; if (one && !event.repeat) give(one.name); }
  else if (event.key === "0") { if (!event.repeat) skip(); }
  else if (event.key === "Enter") { const card = current(); if (card?.guess && !event.repeat) give(card.guess); }
  else if (event.key === "Backspace") { if (!event.repeat) undo(); }
  else if (event.key === "ArrowRight" && !open) move(1);
  else if (event.key === "ArrowLeft" && !open) move(-1);
  else if (event.key === " ") { if (open) at("large").close(); else enlarge(); }
  else if (event.key.length === 1 && event.key.trim() && !open) { at("text").focus(); return; }  // it goes into the field
  else return;
  event.preventDefault();
});

function typed(event) {
  const text = at("text").value.trim();
  if (event.key === "Escape") { at("text").value = ""; render(); rest(); }
  else if (event.key === "Enter" && text && !event.repeat) give(event.shiftKey ? text : matches(text)[0] ?? text);
  else return;
  event.preventDefault();
}

addEventListener("resize", render);
at("text").addEventListener("input", render);
at("undo").addEventListener("click", undo);
at("skip").addEventListener("click", skip);
at("zoom").addEventListener("click", enlarge);
at("shut").addEventListener("click", () => at("large").close());
at("large").addEventListener("click", event => { if (event.target === at("large")) at("large").close(); });
at("large").addEventListener("close", rest);
history.replaceState(null, "", "/");  // the token stays out of bookmarks and of what is shared
rest();
listen();
