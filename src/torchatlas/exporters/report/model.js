// The facts of the graph, as `report_data.py` packs them.

const WEIGHTS = new Set(["parameter", "buffer", "constant"]);

class Model {
  constructor(data) {
    this.data = data;
    this.ids = data.nodes.id;
    this.count = this.ids.length;
    this.position = new Map(this.ids.map((id, i) => [id, i]));
    this.columns = new Map();
    for (const [key, column] of Object.entries(data.columns)) this.columns.set(key, this.#unpack(column));
    this.kinds = this.columns.get("kind") ?? [];
    this.#connect();
    this.extent = new Map();
  }

  #unpack({ type, values, at, expressions }) {
    const { strings } = this.data;
    let read = (value) => value;
    if (type === "text") read = (value) => (value < 0 ? false : strings[value]);
    else if (expressions) read = (v) => (typeof v === "number" && v < 0 ? expressions[-1 - v] : v);
    const found = values.map(read);
    if (!at) return found;
    const dense = new Array(this.count).fill(false);
    at.forEach((node, i) => { dense[node] = found[i]; });
    return dense;
  }

  #connect() {
    const { source, target, how } = this.data.edges;
    this.into = Array.from({ length: this.count }, () => []);
    this.outOf = Array.from({ length: this.count }, () => []);
    for (let e = 0; e < source.length; e++) {
      this.into[target[e]].push({ node: source[e], how: how[e] });
      this.outOf[source[e]].push({ node: target[e], how: how[e] });
    }
  }

  /** What a node has under `key`: false where it lacks it, null where it is unknown. */
  get(key, node) { return this.columns.get(key)?.[node] ?? (this.columns.has(key) ? null : false); }
  has(key) { return this.columns.has(key); }
  id(node) { return this.ids[node]; }
  isWeight(node) { return WEIGHTS.has(this.kinds[node]); }
  isOp(node) { return this.kinds[node] === "op"; }

  /** How many ops a node stands for: a collapsed module for all that was in it. */
  ops(node) {
    if (!this.isOp(node)) return 0;
    const inside = this.get("contains", node);
    return inside ? Object.values(inside).reduce((sum, count) => sum + count, 0) : 1;
  }

  family(node) { return this.data.families[this.data.nodes.family[node]]; }

  /** The modules around a node, from the outermost inwards. */
  modules(node) {
    return this.data.stacks[this.data.nodes.stack[node]].map((module) => {
      const [path, type] = this.data.modules[module];
      return { path: this.data.strings[path], type: this.data.strings[type] };
    });
  }

  tensors(node) { return this.data.nodes.outputs[node].map((tensor) => this.tensor(tensor)); }

  tensor(index) {
    if (index < 0) return null;
    const [shape, dtype, device, stride, bytes] = this.data.tensors[index];
    const { strings } = this.data;
    return { shape, dtype: strings[dtype], device: strings[device], stride, bytes };
  }

  /** The shape of the first tensor that a node makes, in the way of the books. */
  shape(node) {
    const first = this.data.nodes.outputs[node].find((tensor) => tensor >= 0);
    return first === undefined ? "" : shapeText(this.data.tensors[first][0]);
  }

  literals(node) {
    const texts = this.data.arguments[this.data.nodes.args[node]].map((i) => this.data.strings[i]);
    return Array.from({ length: texts.length / 2 }, (_, i) => [texts[2 * i], texts[2 * i + 1]]);
  }

  /** The uses of an edge: which output, null where only the order matters, goes to which argument. */
  uses(how) {
    const flat = this.data.edges.uses[how];
    return Array.from({ length: flat.length / 2 }, (_, i) => ({
      output: flat[2 * i] < 0 ? null : flat[2 * i],
      argument: this.data.strings[flat[2 * i + 1]],
    }));
  }

  /** A number of a node: the value of a key, or of one that is made of others; NaN if there is none. */
  amount(key, node) {
    if (key === "bytes") {
      const [read, written] = [this.get("bytes_read", node), this.get("bytes_written", node)];
      return typeof read === "number" && typeof written === "number" ? read + written : NaN;
    }
    if (key === "intensity") {
      const moved = this.amount("bytes", node);
      return moved > 0 ? this.work(node) / moved : NaN;
    }
    const value = this.get(key, node);
    return typeof value === "number" ? value : NaN;
  }

  /** Operations of all kinds; NaN where one of them is unknown or an expression. */
  work(node) {
    let sum = 0;
    for (const key of ["flops", "flops_other", "int_ops"]) {
      const value = this.get(key, node);
      if (value === false) continue;
      sum += typeof value === "number" ? value : NaN;
    }
    return this.has("flops") ? sum : NaN;
  }

  unit(key) { return key === "bytes" ? "B" : this.data.fields[key]?.unit ?? ""; }

  /** Whether a key has numbers, and no expressions, on some node. */
  isNumeric(key) {
    if (!this.extent.has(key)) {
      let symbolic = false;
      let largest = -Infinity;
      for (const part of key === "bytes" ? ["bytes_read", "bytes_written"] : [key]) {
        for (const value of this.columns.get(part) ?? []) symbolic ||= typeof value === "string";
      }
      for (let i = 0; i < this.count; i++) {
        const value = this.amount(key, i);
        if (value > largest) largest = value;
      }
      this.extent.set(key, { symbolic, largest });
    }
    const { symbolic, largest } = this.extent.get(key);
    return !symbolic && largest > 0;
  }

  isSymbolic(key) {
    this.isNumeric(key);
    return this.extent.get(key).symbolic;
  }

  /** Bytes in use while each node runs, by purpose. */
  memory() {
    const found = this.data.memory;
    if (typeof found === "string" || this.timeline) return this.timeline ?? null;
    const series = found.purposes.map(() => new Float64Array(this.count + 1));
    for (let s = 0; s < found.node.length; s++) {
      series[found.purpose[s]][found.first[s]] += found.bytes[s];
      series[found.purpose[s]][found.last[s] + 1] -= found.bytes[s];
    }
    const total = new Float64Array(this.count);
    for (const one of series) {
      let held = 0;
      for (let i = 0; i < this.count; i++) {
        held += one[i];
        one[i] = held;
        total[i] += held;
      }
    }
    this.timeline = { purposes: found.purposes, series, total };
    return this.timeline;
  }

  /** What is in memory while a node runs, largest first. */
  alive(node) {
    const found = this.data.memory;
    if (typeof found === "string") return [];
    const sizes = new Map();
    for (let s = 0; s < found.node.length; s++) {
      if (found.first[s] <= node && node <= found.last[s]) {
        sizes.set(found.node[s], (sizes.get(found.node[s]) ?? 0) + found.bytes[s]);
      }
    }
    return [...sizes].sort((a, b) => b[1] - a[1]);
  }
}

function shapeText(shape) {
  return shape.map((n) => (typeof n === "number" || /^\w+$/.test(n) ? n : `(${n})`)).join("×") || "scalar";
}

function tensorText(tensor) {
  return tensor === null ? "none" : `${tensor.dtype}[${tensor.shape.join(", ")}]`;
}
