"use strict";
(async () => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const places = document.querySelectorAll("[data-figure]");
  if (!("DecompressionStream" in window)) {
    places.forEach((place) => (place.textContent = "This browser is too old to draw the figure; the tables are complete."));
    return;
  }
  const library = document.createElement("script");
  library.textContent = await unpack("plotting-library");
  document.head.append(library);

  /* Colours are names of the style sheet's variables, so that figures follow its light and dark look. */
  const coloured = (value) => {
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
    return typeof value === "string" && value.startsWith("--") ? css(value) : value;
  };
  for (const place of places) {
    const { traces, layout } = coloured(JSON.parse(await unpack(`figure-${place.dataset.figure}`)));
    const frame = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--text"), size: 12 } };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      layout[axis] = { gridcolor: css("--line"), zeroline: false, ...layout[axis] };
    }
    await Plotly.newPlot(place, traces, { ...frame, ...layout }, { displaylogo: false, responsive: true });
    place.dataset.drawn = "done";
  }
})();
