"use strict";
// Makes the columns of every table.sortable sortable; without this script the tables are complete.
(() => {
  const number = /((?:^[+−-])?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]\d+)?(?:\/\d+)?)/;
  const read = (text) => {
    const [top, bottom = 1] = text.replace(/[,+]/g, "").replace("−", "-").split("/");
    return top / bottom;
  };
  // a cell as texts and the numbers between them in turn: "80 %" is "", 80 and " %"; null: not known
  const key = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.value;
    if (value === undefined) {
      const text = cell.textContent.trim();
      if (text === "" || text === "–") return null;
      return text.split(number).map((part, place) => (place % 2 ? read(part) : part));
    }
    const known = Number(value.replace("inf", "Infinity"));
    return value === "" || Number.isNaN(known) ? null : ["", known];
  };
  const order = (a, b) => {
    for (let i = 0; i < Math.min(a.length, b.length); i++) {
      const apart = i % 2 ? (a[i] > b[i]) - (a[i] < b[i]) : a[i].localeCompare(b[i], "en");
      if (apart) return apart;
    }
    return a.length - b.length;
  };
  // what is not known stays last, whichever way the rest is sorted
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * order(a, b);
  };
  const sort = (table, column, head) => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => compare(a, b, up ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, head));
      head.append(button);
    });
  }
})();
