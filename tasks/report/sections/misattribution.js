(() => {
  /* Who is blamed first, for the chosen method and fault. */
  const blameData = document.getElementById("blame-data");
  if (blameData) {
    const { methods, truths, blamed, counts } = JSON.parse(blameData.textContent);
    const [method, fault] = ["blame-method", "blame-fault"].map((id) => document.getElementById(id));
    const right = (t, b) => truths[t].split("+").includes(blamed[b]);
    const chosen = (wanted) => counts.filter(([m, f]) => (wanted === "" || m === Number(wanted)) && (fault.value === "" || f === Number(fault.value)));

    const fill = (table, wanted) => {
      const sums = truths.map(() => blamed.map(() => 0));
      for (const [, , t, b, n] of chosen(wanted)) sums[t][b] += n;
      sums.forEach((row, t) => {
        const total = row.reduce((a, b) => a + b, 0) || 1;
        row.forEach((n, b) => {
          const cell = table.tBodies[0].rows[t].cells[b + 1];
          cell.textContent = n || "";
          cell.style.setProperty("--share", n / total);
        });
      });
    };

    const bars = () => {
      const named = chosen(method.value).filter(([, , , b]) => blamed[b] !== "(nothing)");
      const sum = (rows) => rows.reduce((total, row) => total + row[4], 0);
      const rankings = sum(named), of = rankings || 1;
      [...document.getElementById("blamed").tBodies[0].rows].forEach((row, b) => {
        const first = named.filter((entry) => entry[3] === b);
        const total = sum(first), rightly = sum(first.filter((entry) => right(entry[2], b)));
        const truly = sum(named.filter((entry) => right(entry[2], b)));
        const track = row.querySelector(".track");
        track.querySelector(".rightly").style.width = `${100 * rightly / of}%`;
        track.querySelector(".wrongly").style.width = `${100 * (total - rightly) / of}%`;
        track.querySelector("b").style.left = `${100 * truly / of}%`;
        row.cells[2].textContent = `${Math.round(100 * total / of)} %`;
        row.cells[3].textContent = `${Math.round(100 * truly / of)} %`;
      });
      document.getElementById("blame-rankings").textContent = rankings;
      document.getElementById("blame-nameless").textContent = sum(chosen(method.value)) - rankings;
    };

    const update = () => {
      bars();
      const figure = document.querySelector("#blame-matrix figure");
      figure.querySelector("figcaption").textContent =
        `${method.value === "" ? "all methods" : methods[method.value]}${fault.value === "" ? "" : `, ${fault.selectedOptions[0].text}`}`;
      fill(figure.querySelector("table"), method.value);
      document.querySelectorAll("#blame-each table.matrix").forEach((table) => fill(table, table.dataset.method));
    };
    method.closest("p").hidden = false;
    for (const select of [method, fault]) select.addEventListener("change", update);
    if (method.value || fault.value) update();
  }
})();
