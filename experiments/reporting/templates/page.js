"use strict";
// A click on a column's head sorts by it, numbers by value and words by the alphabet; a second click turns it round.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0], column = head.cellIndex;
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => { const cell = row.cells[column]; return cell.dataset.value ?? cell.textContent; };
    const number = (text) => text === "inf" ? Infinity : text === "-inf" ? -Infinity : text === "" ? NaN : Number(text);
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)], [p, q] = [number(x), number(y)];
      if (Number.isNaN(p) && Number.isNaN(q)) return x.localeCompare(y) * (descending ? -1 : 1);
      if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) ? 1 : -1; // words and gaps stay below
      return (p < q ? -1 : p > q ? 1 : 0) * (descending ? -1 : 1);
    });
    body.append(...rows);
  });
}
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
  });
}
