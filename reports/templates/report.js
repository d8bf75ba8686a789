"use strict";

// --- sorting: a head sorts by its column, then the other way round, then as it was; what has no value comes last ---

const words = new Intl.Collator("en", { numeric: true });
const NUMBER = /[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?/i;
const asMade = new Map();

function number(cell) {
  const found = cell.classList.contains("missing") ? null : NUMBER.exec(cell.textContent);
  return found ? Number(found[0].replaceAll(",", "").replace("−", "-")) : NaN;
}

function keys(rows, column, numeric) {
  const cells = rows.map((row) => row.cells[column]);
  if (numeric) return cells.map(number);
  const texts = cells.map((cell) => cell.textContent.trim());
  const values = texts.map((text) => (text === "" ? NaN : Number(text)));
  return texts.some((text, i) => text !== "" && Number.isNaN(values[i])) ? texts : values;
}

function compare(a, b) {
  const lackA = a === "" || Number.isNaN(a), lackB = b === "" || Number.isNaN(b);
  if (lackA || lackB) return { last: lackA - lackB };
  return { order: typeof a === "number" ? a - b : words.compare(a, b) };
}

function sort(head) {
  const table = head.closest("table"), body = table.tBodies[0], numeric = head.classList.contains("number");
  if (!asMade.has(table)) asMade.set(table, [...body.rows]);
  const directions = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
  const next = directions[directions.indexOf(head.getAttribute("aria-sort")) + 1];
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  let rows = asMade.get(table);
  if (next) {
    head.setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1;
    rows = keys(rows, head.cellIndex, numeric)
      .map((key, place) => ({ key, row: rows[place] }))
      .sort((a, b) => { const { last, order } = compare(a.key, b.key); return last ?? sign * order; })
      .map((entry) => entry.row);
  }
  const sorted = document.createDocumentFragment();
  for (const row of rows) sorted.append(row);
  body.append(sorted);
}

for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
}

// --- copying: by the clipboard where the browser lets a file use it, else from a text field ---

async function copy(source, tools) {
  const status = tools.querySelector("[role=status]"), text = source.content.textContent;
  tools.querySelector("textarea")?.remove();
  try {
    await navigator.clipboard.writeText(text);
    status.textContent = "copied";
  } catch {
    const field = document.createElement("textarea");
    field.readOnly = true;
    field.value = text;
    tools.append(field);
    field.select();
    const copied = document.execCommand("copy");
    status.textContent = copied ? "copied" : "selected; copy it with the keyboard";
    if (copied) field.remove();
  }
}

for (const tools of document.querySelectorAll(".sheet .tools")) {
  for (const source of tools.querySelectorAll("template")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = source.dataset.kind;
    button.addEventListener("click", () => copy(source, tools));
    source.before(button);
  }
  tools.hidden = false;
}

// --- the list of all results: its first lines, those of the cell that was followed, or all ---

const results = document.querySelector("#results table"), all = document.getElementById("all");
const limit = () => { all.hidden = !results.classList.toggle("short", results.tBodies[0].rows.length > 500); };

function choose(cell) {
  for (const row of results.tBodies[0].rows) row.classList.toggle("chosen", row.dataset.cell === cell);
  results.classList.toggle("filtered", cell !== undefined);
}

if (results) {
  limit();
  all.addEventListener("click", () => {
    if (!results.matches(".filtered")) results.classList.remove("short");
    choose();
    all.hidden = !results.matches(".short");
  });
}

// --- links: what they lead to is unfolded, a result alone with the others of its cell ---

function show() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let own = target.closest("details"); own; own = own.parentElement.closest("details")) own.open = true;
  if (target.matches("tr[data-cell]")) {
    choose(target.dataset.cell);
    all.hidden = false;
  }
  target.scrollIntoView({ block: target.matches("tr, li") ? "center" : "start" });
}

document.addEventListener("click", (event) => { if (event.target.closest('a[href^="#"]')) setTimeout(show); });
addEventListener("hashchange", show);
show();

// --- the contents: a list that follows, folded where the screen is narrow ---

const contents = document.querySelector(".contents details"), wide = matchMedia("(min-width: 72rem)");
if (contents) {
  const fit = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fit);
  contents.addEventListener("click", (event) => { if (event.target.closest("a")) fit(); });
  fit();
}

// --- charts: a point tells its numbers, a click isolates its row, and far points can be brought in ---

for (const chart of document.querySelectorAll(".chart")) {
  const tip = chart.querySelector(".tip"), toggle = chart.querySelector(".view");
  let alone = null;
  const tell = (event) => {
    const spot = event.target.closest(".spot");
    tip.hidden = !spot || event.type === "pointerout" || event.type === "focusout";
    if (tip.hidden) return;
    tip.textContent = spot.getAttribute("aria-label");
    const box = chart.getBoundingClientRect(), at = spot.querySelector(".mark").getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(at.right - box.left + 8, box.width - tip.offsetWidth))}px`;
    const below = at.bottom - box.top + 8, above = at.top - box.top - tip.offsetHeight - 8;
    tip.style.top = `${below + tip.offsetHeight > box.height && above > 0 ? above : below}px`;
  };
  const isolate = (row) => {
    alone = alone === row ? null : row;
    for (const own of chart.querySelectorAll("[data-row]")) {
      own.classList.toggle("others", alone !== null && own.dataset.row !== alone && !own.matches("button"));
      if (own.matches("button")) own.setAttribute("aria-pressed", own.dataset.row === alone);
    }
  };
  const view = (whole) => {
    for (const plot of chart.querySelectorAll("[data-view]")) plot.toggleAttribute("hidden", (plot.dataset.view === "whole") !== whole);
    toggle.textContent = whole ? "Zoom to the pile" : "Show all points";
  };
  for (const title of chart.querySelectorAll(".spot title")) title.remove();
  for (const kind of ["pointerover", "pointerout", "focusin", "focusout"]) chart.addEventListener(kind, tell);
  chart.addEventListener("click", (event) => {
    const own = event.target.closest("[data-row]");
    if (own) isolate(own.dataset.row);
  });
  chart.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
    if (event.key === "Enter" && event.target.matches(".spot")) isolate(event.target.dataset.row);
  });
  if (toggle) {
    toggle.hidden = false;
    toggle.addEventListener("click", () => view(toggle.textContent === "Show all points"));
    view(false);
  }
}

// --- print: what is folded is shown, but the long list of results stays as it is ---

addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open], #results)")) {
    folded.open = true;
    addEventListener("afterprint", () => { folded.open = false; }, { once: true });
  }
});
