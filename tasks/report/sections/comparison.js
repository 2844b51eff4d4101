(() => {
  /* Pairs of methods: the arrow keys move over the cells, a line below reads the cell out. */
  document.querySelectorAll("table.pairs").forEach((table) => {
    const reading = table.closest("details").querySelector(".reading");
    const cells = [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
    const read = (cell) => { reading.textContent = cell.title; };
    const go = (cell) => {
      table.querySelector("td[tabindex='0']")?.setAttribute("tabindex", "-1");
      cell.tabIndex = 0;
      cell.focus();
    };
    cells[0][1].tabIndex = 0;
    table.addEventListener("focusin", (event) => event.target.matches("td") && read(event.target));
    table.addEventListener("mouseover", (event) => event.target.matches("td") && read(event.target));
    table.addEventListener("click", (event) => event.target.matches("td") && go(event.target));
    table.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
      const row = cells.findIndex((line) => line.includes(event.target));
      const next = row >= 0 && cells[row + down]?.[cells[row].indexOf(event.target) + right];
      if (!(down || right) || !next) return;
      event.preventDefault();
      go(next);
    });
  });
})();
