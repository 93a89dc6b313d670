// How much memory is in use while each node runs, and for what.

const MOST_POINTS = 3000;

class MemoryPlot {
  constructor(model, picture) {
    this.model = model;
    this.picture = picture;
  }

  async draw(element) {
    const timeline = this.model.memory();
    if (!timeline) {
      absent(element, this.model.data.memory);
      return;
    }
    const { total } = timeline;
    let peak = 0;
    for (let i = 0; i < total.length; i++) if (total[i] > total[peak]) peak = i;
    const at = cutText(this.model.id(peak) ?? "");
    const size = number(total[peak] ?? 0, "B");
    byId("memory-note").textContent =
      `${size} at the peak, while ${at} runs. Click to choose the node at a point.`;
    const layout = this.#layout(total, peak);
    layout.annotations = [this.#mark(total, peak, `peak ${size} at ${safe(at)}`)];
    const traces = this.#traces(timeline);
    await plot(element, { traces, layout }, "plotly_click", ({ x }) => this.picture.chooseNode(x));
  }

  #traces({ purposes, series, total }) {
    const points = sample(total, MOST_POINTS);
    const used = purposes.map((name, p) => ({ name, sizes: series[p] }));
    const shown = used.filter(({ sizes }) => sizes.some((size) => size > 0));
    const areas = shown.map(({ name, sizes }) => ({
      type: "scatter", mode: "lines", name, stackgroup: "memory", hoverinfo: "skip",
      x: points, y: points.map((i) => sizes[i]),
      line: { width: 0.5, shape: "hvh", color: style(`--memory-${name}`) },
      fillcolor: style(`--memory-${name}`),
    }));
    const text = points.map((i) => {
      const parts = shown.map(({ name, sizes }) => `${name} ${number(sizes[i], "B")}`);
      const lines = [`${number(total[i], "B")} in use`, ...parts];
      return `<b>${safe(cutText(this.model.id(i)))}</b><br>${lines.join("<br>")}`;
    });
    const outline = {
      type: "scatter", mode: "lines", showlegend: false, hoverinfo: "text", text,
      x: points, y: points.map((i) => total[i]),
      line: { width: 1.2, shape: "hvh", color: style("--ink") },
    };
    return [...areas, outline];
  }

  #layout(total, peak) {
    // Weights come first, and nothing changes while they do.
    const start = Math.max(0, this.model.kinds.findIndex((kind) => kind === "op") - 1);
    const layout = { ...theme(), hovermode: "x" };
    layout.xaxis.title.text = "nodes in the order of execution";
    layout.xaxis.range = [start, Math.max(start + 1, total.length - 1)];
    Object.assign(layout.yaxis, {
      tickformat: ".2~s", ticksuffix: "B", range: [0, (total[peak] ?? 0) * 1.14 || 1],
    });
    return layout;
  }

  #mark(total, peak, text) {
    const right = peak > total.length * 0.7;
    const accent = style("--accent");
    return {
      x: peak, y: total[peak] ?? 0, text, showarrow: true, arrowhead: 0, arrowcolor: accent,
      ax: right ? -36 : 36, ay: -16, xanchor: right ? "right" : "left",
      font: { color: accent, size: 12 }, bgcolor: style("--page"), borderpad: 3,
    };
  }
}

/** Positions of at most `most` points that keep the largest of each stretch. */
function sample(values, most) {
  const step = Math.max(1, Math.ceil(values.length / most));
  const found = [];
  for (let first = 0; first < values.length; first += step) {
    let best = first;
    for (let i = first; i < Math.min(first + step, values.length); i++) {
      if (values[i] > values[best]) best = i;
    }
    found.push(best);
  }
  return found;
}
