(() => {
  const filter = document.getElementById("case-filter");
  if (filter) {
    const rows = [...document.querySelectorAll("table.cases:not(.ranks) tbody tr")];
    const others = new Map([...document.querySelectorAll("table.ranks tbody tr")].map((row) => [row.dataset.case, row]));
    const count = document.getElementById("case-count");
    filter.closest("p").hidden = rows.length < 5;
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        for (const other of [document.getElementById(row.dataset.case), others.get(row.dataset.case)]) if (other) other.hidden = row.hidden;
      }
      count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
    });
  }
})();
