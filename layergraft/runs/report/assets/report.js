"use strict";
// Draws the figures (data + Vega-Lite specification) one after the other, so that all are there when the page is
// printed; those near the window come first, those of a folded section when it is opened. Theme and width redraw them.
const figures = JSON.parse(document.getElementById("figures").textContent);
const root = document.documentElement, dialog = document.getElementById("large"), tip = document.getElementById("tip");
const PALETTE = ["#3d7fd9", "#e0762f", "#2a9d78", "#b45fc9", "#c79a1b", "#d64f63", "#5f8f9e", "#8a6d4b"];
const drawn = new Map();  // place -> its Vega view

function colours() {  // pdf.py has the light ones
  const css = getComputedStyle(root), of = name => css.getPropertyValue(name).trim();
  const ink = of("--ink"), soft = of("--soft"), line = of("--line");
  return {
    background: null, font: "system-ui, sans-serif", view: { stroke: null }, range: { category: PALETTE },
    axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: 500, labelLimit: 140 },
    legend: { labelColor: ink, titleColor: soft, orient: "top", direction: "horizontal", titleFontWeight: 500, labelLimit: 220, labelFontSize: 12, symbolOpacity: 1 },
    numberFormat: ",.6~r",
    text: { color: ink, fill: ink }, rule: { color: soft }, title: { color: ink },
  };
}

function showTip(_, event, __, value) {
  if (value === null || value === undefined || value === "") { tip.hidden = true; return; }
  tip.replaceChildren();
  const entries = typeof value === "object" ? Object.entries(value) : [["", value]];
  for (const [name, text] of entries) {
    if (String(text).startsWith("data:image/")) {
      tip.append(Object.assign(document.createElement("img"), { src: text, alt: "" }));
      continue;
    }
    const row = document.createElement("div"), label = document.createElement("b");
    label.textContent = name ? name + " " : "";
    row.append(label, String(text));
    tip.append(row);
  }
  (dialog.open ? dialog : document.body).append(tip);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 6)) + "px";
  tip.style.top = (event.clientY + 18 + box.height > innerHeight ? Math.max(4, event.clientY - box.height - 12) : event.clientY + 18) + "px";
}

function draw(figure, place, tallest) {
  const width = Math.max(180, place.clientWidth);
  const own = figure.height ?? (figure.ratio ? width * figure.ratio : tallest ?? 300);
  const height = Math.min(own, tallest ?? Infinity);
  const called = figure.spec.encoding?.color?.field;
  const longest = Math.max(0, ...figure.data.map(row => String(row[called] ?? "").length));
  const columns = Math.max(1, Math.floor(width / Math.max(130, Math.min(250, 30 + 6.5 * longest))));
  const config = colours();
  config.legend.columns = columns;
  const spec = { ...figure.spec, data: { values: figure.data }, width, height, autosize: { type: "fit", contains: "padding" },
    padding: 2, config: { ...config, ...(figure.spec.config ?? {}) } };
  const compiled = vegaLite.compile(spec).spec;
  for (const legend of compiled.legends ?? []) if (legend.strokeDash) {  // Vega-Lite leaves the samples without a colour
    legend.encode = { ...legend.encode, symbols: { ...legend.encode?.symbols, update: { ...legend.encode?.symbols?.update, stroke: { value: config.axis.labelColor } } } };
  }
  drawn.get(place)?.finalize();
  place.replaceChildren();
  const view = new vega.View(vega.parse(compiled), { renderer: "svg", container: place, hover: true, tooltip: showTip });
  drawn.set(place, view);
  // The place is one image with a name; Vega's own roles, a nameless one for every group of marks, would be read out.
  return view.runAsync().then(() => {
    for (const part of place.querySelectorAll("[role], [aria-roledescription], [aria-label]"))
      for (const name of ["role", "aria-roledescription", "aria-label"]) part.removeAttribute(name);
  });
}

const places = [...document.querySelectorAll("[data-figure] > .chart")];
const waiting = new Set();
let drawing = false;
const shown = place => place.clientWidth > 0;  // not where a closed fold hides it
const figureOf = place => figures[place.parentElement.dataset.figure];
function distance(place) {
  const { top, bottom } = place.getBoundingClientRect();
  return Math.max(0, top - innerHeight, -bottom);
}
async function drawWaiting() {
  if (drawing) return;
  drawing = true;
  for (;;) {
    const next = [...waiting].filter(shown).sort((a, b) => distance(a) - distance(b))[0];
    if (!next) break;
    waiting.delete(next);
    try { await draw(figureOf(next), next); } catch (error) { console.error(error); }
    await new Promise(resolve => setTimeout(resolve));  // the page stays alive in between
  }
  drawing = false;
  document.documentElement.dataset.drawn = [...waiting].filter(shown).length ? "" : "all";
}
function later() {  // what is not drawn yet keeps its height
  for (const place of places) { if (place.clientHeight > 80) place.style.minHeight = place.clientHeight + "px"; waiting.add(place); }
  if (dialog.open) enlarge(dialog.dataset.name);
  drawWaiting();
}
for (const place of places) {
  const { height, ratio } = figureOf(place);
  place.style.minHeight = (height ?? (ratio ? place.clientWidth * ratio : 300)) + "px";
}
document.addEventListener("toggle", event => { if (event.target.matches("details") && event.target.open) drawWaiting(); }, true);
function unfold() {  // a link into a folded section opens it
  const fold = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)))?.querySelector("details.fold");
  if (fold && !fold.open) { fold.open = true; fold.scrollIntoView(); }
}
addEventListener("hashchange", unfold);

function rows(figure) {
  const columns = [...new Set(figure.data.flatMap(Object.keys))].filter(name => !figure.data.some(row => String(row[name]).startsWith("data:image/")));
  return [columns, figure.data.map(row => columns.map(name => row[name] ?? ""))];
}

function enlarge(name) {
  const figure = figures[name], place = dialog.querySelector(".chart");
  dialog.dataset.name = name;
  document.getElementById("large-title").textContent = figure.title;
  document.getElementById("large-caption").textContent = figure.caption;
  if (!dialog.open) dialog.showModal();
  draw(figure, place, innerHeight * .62);
  const table = document.getElementById("numbers"), [columns, values] = rows(figure);
  const head = table.createTHead(), body = document.createElement("tbody");
  table.replaceChildren(head, body);
  const line = head.insertRow();
  for (const column of columns) line.append(Object.assign(document.createElement("th"), { textContent: column, scope: "col" }));
  for (const own of values.slice(0, 400)) { const row = body.insertRow(); for (const value of own) row.insertCell().textContent = typeof value === "number" ? +value.toPrecision(6) : value; }
  if (values.length > 400) body.insertRow().insertCell().textContent = `… ${values.length} rows in the CSV`;
}

function save(name, kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function drawnView(name) {
  const place = document.querySelector(`[data-figure="${CSS.escape(name)}"] > .chart`);
  if (!drawn.has(place)) await draw(figures[name], place);
  return drawn.get(place);
}

function toCsv(name) {
  const [columns, values] = rows(figures[name]);
  // A text that a spreadsheet would run as a formula is quoted with an apostrophe.
  const cell = value => typeof value === "number" ? value : '"' + String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""') + '"';
  return [columns, ...values].map(row => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

async function bitmap(view) {  // twice the size, for slides and print
  const canvas = await view.toCanvas(2);
  return new Promise(resolve => canvas.toBlob(resolve, "image/png"));
}

document.addEventListener("click", event => {  // a menu closes where something else is clicked
  for (const menu of document.querySelectorAll(".menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", event => {
  const menu = event.key === "Escape" && event.target.closest?.(".menu[open]");
  if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
});
document.addEventListener("click", async event => {
  const card = event.target.closest("[data-figure]");
  if (!card || dialog.contains(event.target)) return;
  const name = card.dataset.figure, what = event.target.closest("button")?.dataset.do;
  if (what) card.querySelector(".menu").open = false;
  if (what === "svg") save(name + ".svg", "image/svg+xml", await (await drawnView(name)).toSVG());
  else if (what === "png") save(name + ".png", "image/png", await bitmap(await drawnView(name)));
  else if (what === "csv") save(name + ".csv", "text/csv", toCsv(name));
  else if (what === "enlarge" || (event.target.closest(".chart") && !event.target.closest(".role-legend"))) enlarge(name);
});
document.getElementById("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => { tip.hidden = true; const place = dialog.querySelector(".chart"); drawn.get(place)?.finalize(); drawn.delete(place); place.replaceChildren(); });
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

const dark = matchMedia("(prefers-color-scheme: dark)");
function stored(value) { try { if (value) localStorage.setItem("layergraft-theme", value); return localStorage.getItem("layergraft-theme"); } catch { return null; } }
function theme(value) { root.dataset.theme = value; later(); }
document.getElementById("theme").addEventListener("click", () => { const next = root.dataset.theme === "dark" ? "light" : "dark"; stored(next); theme(next); });
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
let width = innerWidth, resized = 0;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { if (innerWidth !== width && !matchMedia("print").matches) { width = innerWidth; later(); } }, 120); });
addEventListener("beforeprint", () => { for (const place of [...waiting].filter(shown)) { waiting.delete(place); draw(figureOf(place), place); } });
theme(stored() ?? (dark.matches ? "dark" : "light"));
unfold();
