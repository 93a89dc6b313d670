// Arithmetic intensity: against the speed reached, where there are times, or as a histogram.

class Roofline {
  constructor(model, picture) {
    this.model = model;
    this.picture = picture;
    this.time = ["latency_us", "roofline_us"].find((key) => model.isNumeric(key)) ?? null;
  }

  /** Whether there is anything to plot. */
  get present() {
    const keys = ["flops", "flops_other", "bytes"];
    if (keys.some((key) => this.model.isSymbolic(key))) return false;
    for (let i = 0; i < this.model.count; i++) if (this.model.amount("intensity", i) > 0) return true;
    return false;
  }

  get label() { return this.time ? "Roofline" : "Intensity"; }

  async draw(element) {
    const { title, note, traces, layout } = this.time ? this.#scatter() : this.#histogram();
    byId("roofline-title").textContent = title;
    byId("roofline-note").textContent = note;
    await plot(element, { traces, layout }, "plotly_click", ({ customdata }) => {
      if (typeof customdata === "number") this.picture.chooseNode(customdata);
    });
  }

  // -- speed against intensity -------------------------------------------------------------

  #scatter() {
    const groups = new Map();
    for (let i = 0; i < this.model.count; i++) {
      const point = this.#point(i);
      if (!point) continue;
      if (!groups.has(point.group)) groups.set(point.group, []);
      groups.get(point.group).push(point);
    }
    const layout = { ...theme(), showlegend: true };
    const axis = (axis, text) => Object.assign(axis, { type: "log", dtick: "D2", title: { ...axis.title, text } });
    axis(layout.xaxis, "operations per byte");
    axis(layout.yaxis, "operations per second").tickformat = "~s";
    const measured = this.time === "latency_us";
    return {
      title: "Roofline",
      note: measured ? "Speed reached by each op, as measured." : "Speed that each op could reach, as estimated.",
      traces: [...groups].map(([name, points]) => this.#markers(name, points)),
      layout,
    };
  }

  #point(node) {
    const { model } = this;
    const [intensity, duration] = [model.amount("intensity", node), model.amount(this.time, node)];
    if (!(intensity > 0) || !(duration > 0)) return null;
    const [work, bound] = [model.work(node), model.get("bound", node)];
    const lines = [
      `<b>${safe(cutText(model.id(node)))}</b>`,
      `${number(work, "FLOP")} in ${number(duration, "µs")}`,
      `${Number(intensity.toPrecision(3))} operations per byte`,
    ];
    return {
      node, bound, group: bound ? `${bound} bound` : model.family(node), family: model.family(node),
      x: intensity, y: (work / duration) * 1e6, text: lines.join("<br>"),
    };
  }

  #markers(name, points) {
    const [{ bound, family }] = points;
    const column = (key) => points.map((point) => point[key]);
    const colour = bound && style(`--bound-${bound}`);
    return {
      type: "scatter", mode: "markers", name: safe(name), hoverinfo: "text",
      x: column("x"), y: column("y"), text: column("text"), customdata: column("node"),
      marker: {
        size: 8, opacity: 0.85, line: { width: 1, color: style("--page") },
        color: colour || familyColour(family, "border-top-color"),
      },
    };
  }

  // -- where work and bytes are ------------------------------------------------------------

  #histogram() {
    const { sums, work, moved } = this.#buckets();
    const found = [...sums.keys()].filter((bucket) => bucket !== null);
    const low = Math.min(...found);
    const buckets = Array.from({ length: Math.max(...found) - low + 1 }, (_, i) => low + i);
    if (sums.has(null)) buckets.unshift(null);
    const bars = (name, key, whole, color) => {
      const shares = buckets.map((bucket) => (sums.get(bucket)?.[key] ?? 0) / (whole || 1));
      const text = buckets.map((bucket, i) => {
        const title = bucket === null ? "no operations" : `${range(bucket)} operations per byte`;
        return `<b>${title}</b><br>${percent(shares[i])} of ${name}<br>${sums.get(bucket)?.count ?? 0} ops`;
      });
      const x = buckets.map((bucket) => (bucket === null ? "none" : range(bucket)));
      return { type: "bar", name, x, y: shares, text, textposition: "none", hoverinfo: "text", marker: { color } };
    };
    const layout = { ...theme(), barmode: "group", bargap: 0.25 };
    layout.xaxis.type = "category";
    layout.xaxis.title.text = "operations per byte";
    layout.yaxis.tickformat = ".0%";
    return {
      title: "Arithmetic intensity",
      note: "Where the operations are done, and where the bytes are moved: ops on the left wait for memory.",
      traces: [
        bars("operations", "work", work, style("--accent")),
        bars("bytes moved", "moved", moved, style("--second")),
      ],
      layout,
    };
  }

  /** Sum operations and bytes by the power of two that the intensity lies above. */
  #buckets() {
    const { model } = this;
    const sums = new Map();
    let [work, moved] = [0, 0];
    for (let i = 0; i < model.count; i++) {
      const [ops, bytes] = [model.work(i), model.amount("bytes", i)];
      if (!model.isOp(i) || !(bytes > 0) || Number.isNaN(ops)) continue;
      const bucket = ops > 0 ? Math.floor(Math.log2(ops / bytes)) : null;
      const sum = sums.get(bucket) ?? { work: 0, moved: 0, count: 0 };
      sums.set(bucket, { work: sum.work + ops, moved: sum.moved + bytes, count: sum.count + 1 });
      work += ops;
      moved += bytes;
    }
    return { sums, work, moved };
  }
}

function range(bucket) {
  const edge = (exponent) => (exponent < 0 ? `1/${2 ** -exponent}` : grouped(2 ** exponent));
  return `${edge(bucket)} – ${edge(bucket + 1)}`;
}
