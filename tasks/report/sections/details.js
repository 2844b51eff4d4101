(() => {
  const { CAN_UNPACK, TOO_OLD, css, plotting, unpack } = page;

  /* Plotly reads a small HTML subset in labels: names must not be markup. */
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  /* Campaigns of minutes and data sets of days: the axis uses the unit that fits. */
  const timeScale = ([start, end]) => (end - start > 10800 ? [3600, "h"] : end - start > 900 ? [60, "min"] : [1, "s"]);
  const seconds = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(Math.abs(x) < 1000 ? 1 : 0)} s`;
  const utc = (t0, x) => new Date(t0 + x * 1000).toISOString().replace("T", " ").slice(0, 21) + " UTC";
  const moment = (data, x) => `${seconds(x)} · ${utc(data.t0, x)}`;

  const SI_UNITS = { s: "s", bytes: "B", "bytes/s": "B/s" };
  const TARGETS = ["--target", "--target-2"];
  const SIBLINGS = ["--sibling-1", "--sibling-2", "--sibling-3"];
  const DASHES = ["solid", "dot", "dash", "dashdot", "longdash"];

  function lineStyle(data, service) {
    const target = data.targets.indexOf(service);
    if (target >= 0) return { color: css(TARGETS[target % TARGETS.length]), width: 2.6, dash: target < 2 ? "solid" : "dash" };
    const i = data.services.filter((name) => !data.targets.includes(name)).indexOf(service);
    return { color: css(SIBLINGS[i % SIBLINGS.length]), width: 1.2, dash: DASHES[i % DASHES.length] };
  }

  function requestTraces(data) {
    const r = data.requests;
    const answered = r.y.filter((v) => v !== null);
    const top = (answered.length ? Math.max(...answered) : 1) * 1.08;
    const failed = new Set(r.failed);
    const traces = [];
    const kinds = [...r.services.keys(), -1].sort((a, b) => data.targets.includes(r.services[a]) - data.targets.includes(r.services[b]));
    for (const s of kinds) {
      const rows = r.x.map((_, i) => i).filter((i) => r.s[i] === s && !failed.has(i));
      if (!rows.length) continue;
      const target = data.targets.indexOf(r.services[s]);
      traces.push({
        type: "scatter", mode: "markers", name: s < 0 ? "answered" : `answered by ${plain(r.services[s])}`,
        x: rows.map((i) => r.x[i]), y: rows.map((i) => r.y[i]), customdata: rows.map((i) => moment(data, r.x[i])),
        marker: target >= 0
          ? { color: css(TARGETS[target % TARGETS.length]), size: 7, symbol: "diamond" }
          : { color: css(SIBLINGS[0]), size: 5, symbol: "circle", opacity: 0.65 },
        hovertemplate: "%{y:.3s}s · %{customdata}<extra>%{fullData.name}</extra>", legend: "legend2",
      });
    }
    for (const [name, dash] of [["p50", "solid"], ["p95", "dash"]]) {
      traces.push({
        type: "scatter", mode: "lines", name, x: r.bins, y: r[name], line: { color: css("--text"), width: 1, dash, shape: "hvh" },
        customdata: r.bins.map((x) => moment(data, x)), hovertemplate: `${name} %{y:.3s}s · %{customdata}<extra></extra>`, legend: "legend2",
      });
    }
    if (r.failed.length) {
      traces.push({
        type: "scatter", mode: "markers", name: `failed (${r.failed.length})`, x: r.failed.map((i) => r.x[i]), y: r.failed.map(() => top),
        customdata: r.failed.map((i, n) => `${plain(r.errors[n])} · ${moment(data, r.x[i])}`),
        marker: { color: css("--bad"), size: 8, symbol: "x-thin", line: { color: css("--bad"), width: 2 } },
        hovertemplate: "failed: %{customdata}<extra></extra>", legend: "legend2",
      });
    }
    return traces;
  }

  function panelTraces(data, panel, x, when, labelled) {
    const traces = [];
    if (panel.low) {
      const band = { type: "scatter", mode: "lines", x, line: { width: 0 }, hoverinfo: "skip", showlegend: false };
      traces.push({ ...band, y: panel.low }, { ...band, y: panel.high, fill: "tonexty", fillcolor: css("--band") });
    }
    if (panel.middle) {
      traces.push({
        type: "scatter", mode: "lines", name: "median of the others like it", legendgroup: "middle", showlegend: !labelled.has("middle"), x, y: panel.middle,
        customdata: when, line: { color: css("--text"), width: 1 }, hovertemplate: "%{y:.4~s} · %{customdata}<extra>%{fullData.name}</extra>",
      });
      labelled.add("middle");
    }
    const order = [...panel.lines].sort((a, b) => data.targets.includes(data.services[a[0]]) - data.targets.includes(data.services[b[0]]));
    for (const [s, y] of order) {
      const service = data.services[s];
      const lonely = y.some((v, i) => v !== null && (y[i - 1] ?? null) === null && (y[i + 1] ?? null) === null);
      traces.push({
        type: "scatter", mode: lonely ? "lines+markers" : "lines", connectgaps: lonely, marker: { size: 4 },
        name: plain(service) + (data.targets.includes(service) ? " (target)" : ""), legendgroup: service, showlegend: !labelled.has(service),
        legendrank: s, x, y, customdata: when, line: lineStyle(data, service),
        hovertemplate: "%{y:.4~s} · %{customdata}<extra>%{fullData.name}</extra>",
      });
      labelled.add(service);
    }
    return traces;
  }

  /* One row per suspect, ten pixels high; then the others, two pixels per row. */
  const [SINGLE, POOLED] = [10, 2];
  const fleetHeight = (fleet) => SINGLE * fleet.single + POOLED * (fleet.rows.length - fleet.single);

  function fleetTrace(fleet, x, when, dx) {
    const edges = [0];
    fleet.rows.forEach((_, i) => edges.push(edges[i] + (i < fleet.single ? SINGLE : POOLED)));
    const ground = css("--page");
    return {
      type: "heatmap", x: [...x, x.at(-1) + dx].map((t) => t - dx / 2), y: edges, z: fleet.tenths.map((row) => row.map((v) => (v === null ? null : v / 10))),
      zmin: -fleet.most, zmax: fleet.most, colorscale: [[0, css("--target-2")], [0.42, ground], [0.58, ground], [1, css("--target")]],
      text: fleet.rows.map((name) => when.map((moment) => `${plain(name)} · ${moment}`)), hoverongaps: false,
      hovertemplate: "%{z:+.1f} σ · %{text}<extra></extra>", colorbar: { thickness: 8, len: 0.12, lenmode: "fraction", ticksuffix: " σ", tickfont: { size: 10 }, nticks: 3 },
    };
  }

  function windowShapes(data, axis) {
    const place = { xref: `x${axis}`, yref: `y${axis} domain`, y0: 0, y1: 1 };
    return data.windows.flatMap((w) => [
      { ...place, type: "rect", x0: w.planned[0], x1: w.planned[1], fillcolor: css("--shade"), line: { width: 0 }, layer: "below" },
      ...[["observed", "solid"], ["verified", "dot"]].flatMap(([name, dash]) =>
        (w[name] ?? []).map((t) => ({ ...place, type: "line", x0: t, x1: t, line: { color: css("--edge"), width: 1.2, dash } }))),
    ]);
  }

  /* The latency panel spans the width, the metric panels follow in a grid; every panel shares one time axis. */
  function figure(data, width) {
    const [scale, timeUnit] = timeScale(data.span);
    const columns = width < 640 ? 1 : width < 1100 ? 2 : 3;
    const [latencyHeight, panelHeight, gap, legendLine] = [230, 120, 48, 19];
    const requests = data.requests ? requestTraces(data) : [];
    /* A phone has room for one or two entries of a legend beside each other. */
    const lines = (entries) => (columns > 1 ? 1 : Math.ceil(entries / Math.max(1, Math.floor((width - 58) / 165))));
    const legend2Lines = lines(requests.length);
    const head = 36 + legendLine * (lines(data.services.length) + legend2Lines);
    const rows = Math.ceil(data.panels.length / columns);
    const above = data.requests ? latencyHeight + gap : 0;
    const top = above + (data.fleet ? fleetHeight(data.fleet) + gap : 0);
    const height = head + top + rows * (panelHeight + gap) - 16;
    const traces = [], annotations = [], shapes = [];
    const layout = {};
    const place = (axis, title, note, x0, x1, yTop, tall, unit) => {
      const key = axis === 1 ? "" : axis;
      layout[`xaxis${key}`] = {
        domain: [x0, x1], anchor: `y${key}`, matches: axis === 1 ? undefined : "x", range: data.span.map((t) => t / scale), zeroline: false, gridcolor: css("--line"),
        ticksuffix: ` ${timeUnit}`, tickfont: { size: 10 }, nticks: 7, showspikes: true, spikemode: "across", spikethickness: 1, spikedash: "dot", spikecolor: css("--quiet"),
      };
      layout[`yaxis${key}`] = {
        domain: [1 - (yTop + tall) / (height - head), 1 - yTop / (height - head)], anchor: `x${key}`, gridcolor: css("--line"), zeroline: false,
        tickfont: { size: 10 }, nticks: 5, tickformat: SI_UNITS[unit] ? "~s" : undefined, ticksuffix: SI_UNITS[unit] ?? "", rangemode: unit === "ratio" ? "tozero" : "normal",
      };
      annotations.push({
        text: `<b>${plain(title)}</b>${unit ? ` (${plain(unit)})` : ""}${note ? `  <span style="color:${css("--target")}">${plain(note)}</span>` : ""}`,
        xref: "paper", yref: "paper", x: x0, y: 1 - yTop / (height - head), xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 12 },
      });
      shapes.push(...windowShapes(data, key).map((shape) => ({ ...shape, x0: shape.x0 / scale, x1: shape.x1 / scale })));
    };
    let axis = 1;
    const on = (trace, n) => traces.push({ ...trace, x: trace.x.map((t) => t / scale), xaxis: n === 1 ? "x" : `x${n}`, yaxis: n === 1 ? "y" : `y${n}` });
    if (data.requests) {
      place(axis, "Front-end latency per request", "", 0, 1, 0, latencyHeight, "s");
      requests.forEach((trace) => on(trace, axis));
      axis += 1;
    }
    const x = Array.from({ length: data.n ?? 0 }, (_, i) => data.x0 + i * data.dx);
    const when = x.map((t) => moment(data, t));
    const labelled = new Set();
    if (data.fleet) {
      const { rows: names, single } = data.fleet;
      place(axis, `The fleet: ${data.fleet.metric}, distance from the own baseline`, "", 0, 1, above, fleetHeight(data.fleet), "");
      const y = layout[`yaxis${axis === 1 ? "" : axis}`];
      const centres = Array.from({ length: single }, (_, i) => (i + 0.5) * SINGLE);
      Object.assign(y, {
        range: [fleetHeight(data.fleet), 0], showgrid: false, tickfont: { size: 8 }, tickvals: [...centres, (single * SINGLE + fleetHeight(data.fleet)) / 2],
        ticktext: [...names.slice(0, single).map((name) => plain(name) + (data.targets.includes(name) ? " (target)" : "")), "the others"],
      });
      const trace = fleetTrace(data.fleet, x, when, data.dx);
      trace.colorbar.y = 1 - (above + fleetHeight(data.fleet) / 2) / (height - head);
      trace.colorbar.len = Math.min(1, fleetHeight(data.fleet) / (height - head));
      on(trace, axis);
      axis += 1;
    }
    data.panels.forEach((panel, i) => {
      const column = i % columns, margin = 0.045;
      const x0 = column / columns + (column ? margin / 2 : 0), x1 = (column + 1) / columns - (column < columns - 1 ? margin / 2 : 0);
      place(axis, panel.metric, panel.note, x0, x1, top + Math.floor(i / columns) * (panelHeight + gap), panelHeight, panel.unit);
      panelTraces(data, panel, x, when, labelled).forEach((trace) => on(trace, axis));
      axis += 1;
    });
    const legend = { orientation: "h", xanchor: "left", x: 0, yanchor: "bottom", font: { size: 12 }, bgcolor: "rgba(0,0,0,0)" };
    Object.assign(layout, {
      height, margin: { l: data.fleet ? 118 : 46, r: 12, t: head - 10, b: 10 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--text"), family: "system-ui, sans-serif" }, hovermode: "closest", annotations, shapes,
      legend: { ...legend, y: 1 + (23 + legendLine * legend2Lines) / (height - head) }, legend2: { ...legend, y: 1 + 18 / (height - head) },
    });
    return { traces, layout };
  }

  async function draw(details) {
    const plot = details.querySelector(".plot");
    const packed = details.querySelector(".figure-data");
    if (!plot || plot.dataset.drawn) return;
    plot.dataset.drawn = "1";
    if (!CAN_UNPACK) {
      plot.textContent = TOO_OLD;
      return;
    }
    plot.textContent = "drawing …";
    const [Plotly, text] = await Promise.all([plotting(), unpack(packed)]);
    plot.textContent = "";
    const { traces, layout } = figure(JSON.parse(text), plot.clientWidth);
    await Plotly.newPlot(plot, traces, layout, { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
    plot.dataset.drawn = "done";
  }

  document.querySelectorAll("details.case").forEach((details) => {
    details.addEventListener("toggle", () => details.open && draw(details));
    if (details.open) draw(details);
  });

  const reveal = () => {
    const details = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (details?.matches("details.case")) {
      details.open = true;
      details.scrollIntoView();
    }
  };
  window.addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => event.target.closest?.("a[href^='#']") && setTimeout(reveal));
  reveal();
})();
