"use strict";
/* What the scripts of all pages and sections use. */
const page = (() => {
  const CAN_UNPACK = "DecompressionStream" in window;
  const TOO_OLD = "This browser is too old to draw the figure (it lacks DecompressionStream); the tables are complete.";
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const unpack = async (element) => {
    const bytes = Uint8Array.from(atob(element.textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };

  let library = null;
  const plotting = () => {
    library ??= unpack(document.getElementById("plotting-library")).then((code) => {
      const script = document.createElement("script");
      script.textContent = code;
      document.head.append(script);
      return window.Plotly;
    });
    return library;
  };

  /* Ready before the first figure is opened, without delaying the page. */
  if (document.getElementById("plotting-library") && CAN_UNPACK) {
    window.addEventListener("load", () => (window.requestIdleCallback ?? setTimeout)(plotting));
  }

  /* Colours are names of the style sheet's variables, so that figures follow its light and dark look. */
  const coloured = (value) => {
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
    return typeof value === "string" && value.startsWith("--") ? css(value) : value;
  };

  /* Figures whose traces and layout are complete: see figure() of tasks/html/shell.py. */
  async function draw(place) {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "1";
    if (!CAN_UNPACK) {
      place.textContent = TOO_OLD;
      return;
    }
    const [Plotly, text] = await Promise.all([plotting(), unpack(place.nextElementSibling)]);
    place.textContent = "";
    const { traces, layout } = coloured(JSON.parse(text));
    const frame = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--text"), size: 12 } };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      layout[axis] = { gridcolor: css("--line"), zeroline: false, ...layout[axis] };
    }
    await Plotly.newPlot(place, traces, { ...frame, ...layout }, { displaylogo: false, responsive: true });
    place.dataset.drawn = "done";
  }
  document.querySelectorAll("[data-figure]").forEach((place) => {
    const folded = place.closest("details:not([open])");
    if (folded) folded.addEventListener("toggle", () => draw(place), { once: true });
    else draw(place);
  });

  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell?.dataset.sort ?? cell?.textContent.trim() ?? "";
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  /* Cells without a value stay last in both directions. */
  const inOrder = (a, b, sign) => (a === "" || b === "" ? (a === "") - (b === "") : compare(a, b) * sign);

  /* Column of a head cell, with the spans of a two-row head counted. */
  function columnOf(table, head) {
    const taken = [];
    for (const [r, row] of [...table.tHead.rows].entries()) {
      let column = 0;
      for (const cell of row.cells) {
        while (taken[r]?.[column]) column += 1;
        if (cell === head) return column;
        for (let y = 0; y < cell.rowSpan; y += 1) for (let x = 0; x < cell.colSpan; x += 1) (taken[r + y] ??= [])[column + x] = true;
        column += cell.colSpan;
      }
    }
    return 0;
  }

  document.querySelectorAll("table.sortable").forEach((table) => {
    const heads = [...table.tHead.querySelectorAll("th")].filter((head) => head.colSpan === 1 && !head.classList.contains("nosort"));
    for (const head of heads) {
      head.dataset.sortable = "";
      head.tabIndex = 0;
      const sort = () => {
        const column = columnOf(table, head);
        const first = head.classList.contains("number") && !head.classList.contains("place") ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? (first === "ascending" ? "descending" : "ascending") : first;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        for (const body of table.tBodies) {
          const rows = [...body.rows].map((row) => [value(row, column), row]);
          rows.sort((a, b) => inOrder(a[0], b[0], order === "ascending" ? 1 : -1));
          body.append(...rows.map(([, row]) => row));
        }
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), sort()));
    }
  });

  /* One of several tables at a time. */
  document.querySelectorAll(".choices").forEach((choices) => {
    const parts = [...choices.querySelectorAll(":scope > .choice")];
    const select = document.createElement("select");
    select.append(...parts.map((part) => new Option(part.dataset.name)));
    const show = () => parts.forEach((part, i) => { part.hidden = i !== select.selectedIndex; });
    select.addEventListener("change", show);
    parts.forEach((part) => part.querySelector("h3").remove());
    const label = document.createElement("label");
    label.append(`${choices.dataset.label} `, select);
    const controls = document.createElement("p");
    controls.className = "controls";
    controls.append(label);
    choices.prepend(controls);
    show();
  });

  /* What scrolls sideways can be reached and scrolled by keyboard. */
  const reachable = () => document.querySelectorAll(".scroll").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  window.addEventListener("resize", reachable);
  document.addEventListener("toggle", reachable, true);
  reachable();

  return { CAN_UNPACK, TOO_OLD, css, plotting, unpack };
})();
