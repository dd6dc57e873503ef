"use strict";
// Adds a field that hides the rows of every table.board that do not hold all of its words.
(() => {
  const places = document.querySelectorAll("[data-search]");
  for (const place of places) {
    const label = document.createElement("label");
    const field = document.createElement("input");
    const told = document.createElement("output");
    field.type = "search";
    label.append("Filter ", field);
    place.append(label, " ", told);
    const rows = [...document.querySelectorAll("table.board tbody tr")];
    const texts = rows.map((row) => `${row.closest("section").dataset.title} ${row.textContent}`.toLowerCase());
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !words.every((word) => texts[i].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      for (const section of document.querySelectorAll("section[data-title]"))
        section.hidden = words.length > 0 && [...section.querySelectorAll("tbody tr")].every((row) => row.hidden);
      told.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
    });
  }
})();
