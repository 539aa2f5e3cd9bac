const table = document.querySelector("table"), body = table.tBodies[0];
const heads = [...table.tHead.querySelectorAll("th")], rows = [...body.rows];
heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
  const value = (row) => row.cells[column].dataset.value;
  const down = head.ariaSort ? head.ariaSort === "ascending" : head.classList.contains("number");
  heads.forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const order = (a, b) => head.classList.contains("number") ? a - b : a.localeCompare(b);
  // A cell without a number comes last, whichever way it goes.
  const compare = (a, b) => !value(a) || !value(b) ? !value(a) - !value(b)
    : (down ? -1 : 1) * order(value(a), value(b));
  body.append(...rows.sort(compare));
}));
