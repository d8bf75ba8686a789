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

for (const tools of document.querySelectorAll(".tools")) {
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
results.classList.toggle("short", results.tBodies[0].rows.length > 500);
all.hidden = !results.matches(".short");

function show() {
  const first = document.getElementById(location.hash.slice(1));
  if (!first?.matches("tr[data-cell]")) return;
  for (const row of results.tBodies[0].rows) row.classList.toggle("chosen", row.dataset.cell === first.dataset.cell);
  results.classList.add("filtered");
  results.closest("details").open = true;
  all.hidden = false;
  first.scrollIntoView({ block: "center" });
}

all.addEventListener("click", () => {
  results.classList.remove(results.matches(".filtered") ? "filtered" : "short");
  for (const row of results.querySelectorAll("tr.chosen")) row.classList.remove("chosen");
  all.hidden = !results.matches(".short");
});
document.addEventListener("click", (event) => { if (event.target.closest('a[href^="#cell-"]')) setTimeout(show); });
addEventListener("hashchange", show);
show();

// --- print: what is folded is shown, but the long list of results stays as it is ---

addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open], #results)")) {
    folded.open = true;
    addEventListener("afterprint", () => { folded.open = false; }, { once: true });
  }
});
