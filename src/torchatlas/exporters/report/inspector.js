// What is known of the chosen node or module, in words, with links to its neighbours.

const LABELS = {
  flops: "FLOPs", macs: "MACs", flops_other: "Other FLOPs", flops_effective: "Effective FLOPs",
  int_ops: "Integer OPs", bytes_read: "Bytes read", bytes_written: "Bytes written", params: "Parameters",
  param_bytes: "Parameter bytes", comm_bytes: "Bytes sent", cost_source: "Counted by", bytes: "Bytes moved",
  latency_us: "Latency", roofline_us: "Roofline time", bound: "Bound by", live_bytes: "Memory in use",
  first_use: "First read at", last_use: "Needed until", op: "Op", kind: "Kind", intensity: "Intensity",
  module: "Module", module_type: "Module type",
};
const SECTIONS = {
  Cost: [
    "flops", "macs", "flops_other", "flops_effective", "int_ops", "bytes_read", "bytes_written",
    "comm_bytes", "params", "param_bytes", "latency_us", "latency_iqr_us", "roofline_us", "bound", "cost_source",
  ],
  Memory: ["live_bytes", "peak_bytes", "first_use", "last_use", "device"],
};
const IN_TITLE = ["kind", "op"];
const MOST_LINKS = 30;
const MOST_OPS = 12;

const labelOf = (key) => LABELS[key] ?? (key[0].toUpperCase() + key.slice(1)).replaceAll("_", " ");

class Inspector {
  constructor(element, model, picture) {
    this.element = element;
    this.model = model;
    this.picture = picture;
    this.show(null);
  }

  show(item) {
    this.element.scrollTop = 0;
    let parts = this.#nothing.bind(this);
    if (item !== null) parts = item.isGroup ? () => this.#module(item) : () => this.#node(item.node);
    this.element.replaceChildren(...parts().filter(Boolean));
  }

  #nothing() {
    const hint = (keys, text) => make("li", {}, make("kbd", { textContent: keys }), ` ${text}`);
    return [
      make("h2", { textContent: "Nothing chosen" }),
      make("p", { className: "detail", textContent: "Click a box for its shapes, costs and neighbours." }),
      make(
        "ul", { className: "keys" },
        hint("/", "find a node or a module"), hint("Double click", "open or close a module"),
        hint("Drag, wheel", "move and zoom"), hint("← ↑ ↓ →", "go to the next box"),
        hint("Enter", "open the chosen module"), hint("0", "show all"), hint("Esc", "choose nothing"),
      ),
      this.#families(this.picture.tree.root, "Ops of the model"),
    ];
  }

  #heading(name, kind, family) {
    const chip = make("span", { className: `chip ${family}`, textContent: kind });
    const title = make("h2", { className: "name", textContent: name, "data-key": "id" });
    return make("div", { className: "heading" }, chip, title);
  }

  // -- a module ----------------------------------------------------------------------------

  #module(item) {
    const { tree } = this.picture;
    const keys = ["params", "flops", "flops_other", "int_ops", "bytes", "latency_us", "roofline_us"];
    const rows = keys
      .filter((key) => key === "bytes" ? this.model.has("bytes_read") : this.model.has(key))
      .map((key) => [key, tree.sum(item, key)])
      .filter(([, value]) => value !== 0);
    const isUnknown = (node) => this.model.isOp(node) && this.model.get("flops", node) === null;
    const unknown = [...item.nodes()].filter(isUnknown).length;
    if (unknown) rows.push(["unknown", `${unknown} ops of unknown cost are in no sum`]);
    const kind = item.type === "range" ? "part of a module" : lastPart(item.type) || "module";
    const isModule = item.type !== "range" && item.type !== "phase";
    const button = make("button", { textContent: item.expanded ? "Close" : "Open", className: "action" });
    button.onclick = () => {
      this.picture.choose(item, { reveal: true });
      if (item !== tree.root) this.picture.toggle(item);
      this.show(item);
    };
    return [
      this.#heading(item.path || item.title, kind, "f-module"),
      isModule && make("p", { className: "detail", textContent: item.type }),
      item !== tree.root && button,
      this.#section("Sums", rows.map(([key, value]) => this.#fact(key, this.#value(key, value)))),
      this.#families(item, "Ops"),
      this.#inside(item),
    ];
  }

  #families(item, title) {
    const counts = new Map();
    for (const node of item.nodes()) {
      if (!this.model.isOp(node)) continue;
      const op = this.model.get("op", node);
      const entry = counts.get(op) ?? { count: 0, family: this.model.family(node) };
      entry.count++;
      counts.set(op, entry);
    }
    const sorted = [...counts].sort((a, b) => b[1].count - a[1].count);
    const rows = sorted.map(([op, { count, family }]) => make(
      "li", {},
      make("i", { className: `dot f-${family}` }),
      make("span", { className: "grow mono", textContent: op }),
      make("span", { className: "number", textContent: grouped(count) }),
    ));
    return this.#list(title, rows, MOST_OPS);
  }

  #inside(item) {
    return this.#list("Inside", item.children.map((child) => this.#link(
      child.title,
      () => this.picture.choose(child, { reveal: true }),
      child.isGroup ? lastPart(child.type) : this.model.shape(child.node),
    )));
  }

  // -- a node ------------------------------------------------------------------------------

  #node(node) {
    const { model } = this;
    const shown = new Set([...IN_TITLE, "module", "module_type", ...Object.values(SECTIONS).flat()]);
    const rest = [...model.columns.keys()].filter((key) => !shown.has(key) && model.get(key, node) !== false);
    const keys = (names) => names.filter((key) => model.has(key) && model.get(key, node) !== false);
    const intensity = model.amount("intensity", node);
    const facts = (names) => names.map((key) => this.#fact(key, this.#value(key, model.get(key, node))));
    const cost = facts(keys(SECTIONS.Cost));
    if (intensity > 0) cost.push(this.#fact("intensity", `${Number(intensity.toPrecision(3))} OP/B`));
    return [
      this.#heading(model.id(node), model.get("op", node) || model.kinds[node], `f-${model.family(node)}`),
      this.#section("Makes", model.tensors(node).map((tensor, i) => this.#tensor(tensor, i))),
      this.#section("Cost", cost),
      this.#inputs(node),
      this.#users(node),
      this.#section("Arguments", model.literals(node).map(([name, text]) => this.#pair(name, text))),
      this.#section("Memory", facts(keys(SECTIONS.Memory))),
      this.#place(node),
      this.#section("More", facts(rest)),
    ];
  }

  #section(title, rows) {
    if (!rows.length) return null;
    return make("section", {}, make("h3", { textContent: title }), make("dl", {}, ...rows.flat()));
  }

  #pair(name, text) {
    return [make("dt", { textContent: name }), make("dd", { className: "mono", textContent: text })];
  }

  #fact(key, value) {
    const doc = this.model.data.fields[key]?.doc ?? "";
    return [
      make("dt", { textContent: labelOf(key), title: doc }),
      make("dd", { "data-key": key }, ...[value].flat()),
    ];
  }

  #tensor(tensor, output) {
    if (tensor === null) return this.#pair(`output ${output}`, "none");
    const about = `${tensor.dtype} · ${tensor.device} · ${number(tensor.bytes, "B")}`;
    const stride = tensor.stride ? `strides ${tensor.stride.join(", ")}` : "no strides";
    return [
      make("dt", { textContent: `output ${output}` }),
      make(
        "dd", {},
        make("span", { className: "shape", "data-key": "shape", textContent: shapeText(tensor.shape) }),
        make("span", { className: "also", textContent: about, title: stride }),
      ),
    ];
  }

  /** The value of a key as it is shown: with its unit and in full; a node as a link to it. */
  #value(key, value) {
    if (value === null) return make("span", { className: "unknown", textContent: "unknown" });
    if (key === "first_use" || key === "last_use") return this.#nodeLink(value);
    if (typeof value === "number") {
      const text = number(value, this.model.unit(key));
      return value < 1000 ? text : [text, make("span", { className: "also", textContent: grouped(value) })];
    }
    if (typeof value === "string") {
      const node = key === "target" ? undefined : this.model.position.get(value);
      if (node !== undefined) return this.#nodeLink(node);
      const unit = this.model.unit(key);
      return make("span", { className: unit ? "mono" : "", textContent: unit ? `${value} ${unit}` : value });
    }
    if (Array.isArray(value)) return value.map(plainText).join(", ") || "none";
    return plainText(value);
  }

  #anchor(text, action) {
    const button = make("button", { className: "link", textContent: text, title: text });
    button.onclick = action;
    return button;
  }

  #nodeLink(node, output = "") {
    return this.#anchor(this.model.id(node) + output, () => this.picture.chooseNode(node));
  }

  #link(text, action, also) {
    return make("li", {}, this.#anchor(text, action), make("span", { className: "also shape", textContent: also }));
  }

  #inputs(node) {
    const { model } = this;
    const rows = model.into[node].flatMap((edge) => model.uses(edge.how).map((use) => {
      const tensors = model.tensors(edge.node);
      const tensor = use.output === null ? null : tensors[use.output];
      const several = tensors.length > 1 && use.output !== null;
      let flows = use.output === null ? "order only" : "";
      if (tensor) flows = shapeText(tensor.shape);
      return make(
        "li", {},
        make("span", { className: "argument", textContent: use.argument }),
        this.#nodeLink(edge.node, several ? ` : ${use.output}` : ""),
        make("span", { className: "also shape", textContent: flows }),
      );
    }));
    return this.#list("Reads", rows);
  }

  #users(node) {
    const { model } = this;
    return this.#list("Read by", model.outOf[node].map((edge) => make("li", {}, this.#nodeLink(edge.node))));
  }

  #list(title, rows, most = MOST_LINKS) {
    if (!rows.length) return null;
    const rest = rows.splice(most);
    const list = make("ul", { className: "list" }, ...rows);
    if (rest.length) {
      const more = make("button", { className: "action", textContent: `Show ${rest.length} more` });
      more.onclick = () => { list.append(...rest); more.remove(); };
      return make("section", {}, make("h3", { textContent: title }), list, more);
    }
    return make("section", {}, make("h3", { textContent: title }), list);
  }

  #place(node) {
    const modules = this.model.modules(node);
    if (!modules.length) return null;
    const rows = modules.map(({ path, type }) => make(
      "li", { title: type }, this.#anchor(path, () => {
        const item = this.picture.tree.module(path);
        if (item) this.picture.choose(item, { reveal: true });
      }), make("span", { className: "also", textContent: lastPart(type) }),
    ));
    return this.#list("Modules around it", rows);
  }
}

function plainText(value) {
  if (value === null) return "none";
  if (Array.isArray(value)) return `[${value.map(plainText).join(", ")}]`;
  if (typeof value === "object") {
    return Object.entries(value).map(([key, item]) => `${key}: ${plainText(item)}`).join(", ");
  }
  return typeof value === "number" ? grouped(value) : String(value);
}
