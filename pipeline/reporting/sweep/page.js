"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const touch = matchMedia("(pointer: coarse)").matches;
for (const [id, figure] of Object.entries(charts)) {
  const place = document.getElementById(id);
  if (touch) figure.layout.dragmode = false; // a finger scrolls the page
  Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  place.on("plotly_click", (event) => {
    const point = event.points[0];
    if (point.customdata) window.open(point.customdata, "_blank", "noopener");
  });
  const drag = place.querySelector(".nsewdrag");
  place.on("plotly_hover", (event) => {
    drag.style.cursor = event.points[0].customdata ? "pointer" : "";
  });
  place.on("plotly_unhover", () => { drag.style.cursor = ""; });
}

// Each row carries what its columns are sorted by; what is not known comes last.
const body = document.querySelector("tbody");
document.querySelectorAll("th button").forEach((button, column) => {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => JSON.parse(row.dataset.sort)[column];
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" && typeof b === "number"
        ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
});
