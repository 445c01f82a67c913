"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const drawn = new Set();

function draw(root) {
  for (const place of root.querySelectorAll(".chart")) {
    // A chart in a hidden panel has no width yet.
    if (drawn.has(place) || place.closest("[hidden]")) continue;
    drawn.add(place);
    const { data, layout } = charts[place.dataset.chart];
    const options = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };
    Plotly.newPlot(place, data, layout, options).then(() => {
      document.documentElement.dataset.charts = document.querySelectorAll(".chart .main-svg:first-child").length;
    });
  }
}

function select(task) {
  for (const button of document.querySelectorAll(".tabs button"))
    button.setAttribute("aria-selected", String(button.dataset.task === task));
  for (const panel of document.querySelectorAll(".panel")) panel.hidden = panel.dataset.task !== task;
  draw(document);
}

function sortBy(header) {
  const table = header.closest("table"), column = header.cellIndex, text = column === 0;
  const rising = header.getAttribute("aria-sort") === (text ? "descending" : "ascending") ? text : !text;
  const ascending = text ? header.getAttribute("aria-sort") !== "ascending" : header.getAttribute("aria-sort") === "descending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = row => {
    const content = row.cells[column].textContent.trim();
    return text ? content : content === "–" ? NaN : Number(content.replaceAll(",", ""));
  };
  const rows = [...table.tBodies[0].rows].filter(row => !row.classList.contains("mean"));
  rows.sort((one, other) => {
    const a = value(one), b = value(other);
    if (text) return ascending ? a.localeCompare(b) : b.localeCompare(a);
    if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
    return ascending ? a - b : b - a;
  });
  table.tBodies[0].append(...rows);
}

for (const button of document.querySelectorAll(".tabs button"))
  button.addEventListener("click", () => select(button.dataset.task));
for (const header of document.querySelectorAll("table.sortable th"))
  header.addEventListener("click", () => sortBy(header));
for (const box of document.querySelectorAll(".switches input"))
  box.addEventListener("change", () => document.body.classList.toggle("no-" + box.name, !box.checked));

const panels = [...document.querySelectorAll(".panel")].map(panel => panel.dataset.task);
const wanted = location.hash.slice(1);
if (panels.length) select(panels.includes(wanted) ? wanted : panels[0]);
else draw(document);
