// What a cost adds up to, module by module.

const AREAS = {
  flops: "FLOPs",
  params: "Parameters",
  bytes: "Bytes moved",
  latency_us: "Measured time",
  roofline_us: "Roofline time",
};
const MOST_SECTORS = 1500;
const WHOLE = " "; // the path of the model, which plotly must not take for the lack of a parent

class Icicle {
  constructor(model, picture) {
    this.model = model;
    this.picture = picture;
    this.areas = Object.keys(AREAS).filter((key) => model.isNumeric(key));
    const options = this.areas.map((key) => make("option", { value: key, textContent: AREAS[key] }));
    byId("area").replaceChildren(...options);
    byId("area").parentElement.hidden = !this.areas.length;
    if (this.areas.length) byId("area-note").textContent = this.#symbolic();
  }

  async draw(element) {
    if (!this.areas.length) {
      absent(element, this.#symbolic() || "The graph has no costs to compare.");
      return;
    }
    const rows = this.#sectors(byId("area").value);
    const column = (key) => rows.map((row) => row[key]);
    const trace = {
      type: "icicle", branchvalues: "total", maxdepth: 6, sort: false,
      ids: column("path"), parents: column("parent"), labels: column("title"),
      values: column("value"), text: column("text"), hovertext: column("hover"),
      hoverinfo: "text", textinfo: "label+text", textfont: { color: style("--ink") },
      tiling: { orientation: "v" }, pathbar: { visible: false },
      marker: {
        colors: rows.map((row) => this.#colour(row)),
        line: { width: rows.length > 300 ? 0.2 : 1, color: style("--page") },
      },
    };
    const layout = {
      ...theme(),
      margin: { l: 0, r: 0, t: 0, b: 0 },
      uniformtext: { minsize: 11, mode: "hide" },
    };
    await plot(element, { traces: [trace], layout, height: 380 }, "plotly_icicleclick", ({ id }) => {
      const { root } = this.picture.tree;
      const item = id === WHOLE ? root : this.picture.tree.module(id);
      if (item) this.picture.choose(item, { reveal: item !== root });
    });
  }

  /** Say which costs are expressions, so that no area can be drawn of them. */
  #symbolic() {
    const names = Object.keys(AREAS).filter((key) => this.model.isSymbolic(key)).map((key) => AREAS[key]);
    if (!names.length) return "";
    return `${names.join(", ")}: not drawn, as they depend on symbolic sizes. bind(graph, …) gives numbers.`;
  }

  /** Sum a key by module: the largest modules, in the order in which they run. */
  #sectors(key) {
    const rows = this.#sums(key);
    const whole = rows.get(WHOLE).value;
    const largest = [...rows.values()].sort((a, b) => b.value - a.value).slice(0, MOST_SECTORS);
    const kept = new Set(largest.map((row) => row.path));
    const inner = new Set([...rows.values()].map((row) => row.parent));
    const unit = this.model.unit(key);
    return [...rows.values()].filter((row) => kept.has(row.path)).map((row) => {
      const [amount, share] = [number(row.value, unit), whole ? percent(row.value / whole) : ""];
      const name = `<b>${safe(row.path.trim() || row.label)}</b><br>${safe(lastPart(row.type))}`;
      return {
        ...row, inner: inner.has(row.path), title: safe(row.label),
        text: `${amount}<br>${share}`, hover: `${name}<br>${amount} · ${share}`,
      };
    });
  }

  #sums(key) {
    const { model } = this;
    const root = { path: WHOLE, parent: "", label: model.data.name, type: "", value: 0, families: new Map() };
    const rows = new Map([[WHOLE, root]]);
    for (let i = 0; i < model.count; i++) {
      const value = model.amount(key, i);
      if (!(value > 0)) continue;
      root.value += value;
      let parent = root;
      for (const { path, type } of model.modules(i)) {
        if (!rows.has(path)) {
          const label = below(path, parent === root ? "" : parent.path);
          rows.set(path, { path, parent: parent.path, label, type, value: 0, families: new Map() });
        }
        const row = rows.get(path);
        row.value += value;
        const family = model.isOp(i) ? model.family(i) : "contraction";
        row.families.set(family, (row.families.get(family) ?? 0) + value);
        parent = row;
      }
    }
    return rows;
  }

  #colour(row) {
    if (row.path === WHOLE) return style("--sector-root");
    if (row.inner || !row.families.size) return style("--sector");
    return familyColour([...row.families].sort((a, b) => b[1] - a[1])[0][0]);
  }
}
