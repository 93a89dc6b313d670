// The tree that the picture is made of: modules, and in them modules and nodes.
//
// A module that is called twice, with others between, stands twice: what is in a box then follows
// each other in the order of execution, so that no edge ever runs upwards between boxes.

const CROWD = 60;
const CHUNK = 40;
const MANY = 8;

let itemCount = 0;

class Item {
  constructor(parent, title, { node = -1, type = "", path = "", key = "" } = {}) {
    this.number = itemCount++;
    this.parent = parent;
    this.title = title;
    this.type = type;
    this.path = path;
    this.node = node;
    this.key = key;
    this.children = node < 0 ? [] : null;
    this.expanded = false;
    this.depth = 0;
    this.sums = new Map();
  }

  get isGroup() { return this.children !== null; }

  /** Every node inside, in order. */
  *nodes() {
    if (!this.isGroup) { yield this.node; return; }
    for (const child of this.children) yield* child.nodes();
  }
}

class Tree {
  constructor(model, { weights = false } = {}) {
    this.model = model;
    this.root = new Item(null, model.data.name, { key: "" });
    this.itemOf = new Array(model.count).fill(null);
    this.hosts = hosts(model);
    this.guests = new Map();
    for (const [weight, host] of this.hosts) {
      if (!this.guests.has(host)) this.guests.set(host, []);
      this.guests.get(host).push(weight);
    }
    this.#grow();
    this.root.children = this.root.children.flatMap((child) => this.#tidy(child));
    for (const kind of ["input", "output"]) this.#gather(kind);
    if (weights) this.#addWeights(this.root);
    this.groups = new Map();
    this.#chunk(this.root);
    this.#settle(this.root, 0);
    this.root.expanded = true;
  }

  #grow() {
    const { model } = this;
    const phases = new Set();
    for (let i = 0; i < model.count; i++) if (model.isOp(i)) phases.add(model.get("phase", i));
    const calls = new Map();
    let open = [this.root];
    for (let i = 0; i < model.count; i++) {
      if (model.isWeight(i) && this.hosts.get(i) !== i) continue;
      if (!model.isOp(i)) {
        this.#leaf(this.root, i).title = model.id(i);
        continue;
      }
      const stack = model.modules(i);
      if (phases.size > 1) stack.unshift({ path: `${model.get("phase", i)} pass`, type: "phase" });
      let same = 0;
      while (same < stack.length && open[same + 1]?.path === stack[same].path) same++;
      open = open.slice(0, same + 1);
      for (const { path, type } of stack.slice(same)) {
        const parent = open.at(-1);
        const call = (calls.get(`${open[1]?.type === "phase" ? open[1].path : ""} ${path}`) ?? 0) + 1;
        calls.set(`${open[1]?.type === "phase" ? open[1].path : ""} ${path}`, call);
        const title = below(path, parent.path) + (call > 1 ? ` · call ${call}` : "");
        const group = new Item(parent, title, { type, path, key: `${parent.key}|${path}#${call}` });
        parent.children.push(group);
        open.push(group);
      }
      this.#leaf(open.at(-1), i);
    }
  }

  #leaf(parent, node) {
    const id = this.model.id(node);
    const item = new Item(parent, id.slice(id.lastIndexOf("/") + 1), { node, key: `node ${node}` });
    this.itemOf[node] = item;
    parent.children.push(item);
    return item;
  }

  /** Gather the inputs, and the outputs, in one box where there are many. */
  #gather(kind) {
    const found = this.root.children.filter((item) => !item.isGroup && this.model.kinds[item.node] === kind);
    if (found.length <= MANY) return;
    const group = new Item(this.root, `${found.length} ${kind}s`, { type: "range", key: `|${kind}s` });
    group.children = found;
    const others = this.root.children.filter((item) => !found.includes(item));
    this.root.children = kind === "input" ? [group, ...others] : [...others, group];
  }

  /** Make a module with one op that op, and of a module with one module one box. */
  #tidy(item) {
    if (!item.isGroup) return [item];
    item.children = item.children.flatMap((child) => this.#tidy(child));
    if (item.children.length !== 1 || item.type === "phase") return [item];
    const [only] = item.children;
    if (only.isGroup) only.title = `${item.title}.${only.title}`;
    else {
      only.type ||= item.type;
      only.title = item.title + (only.owner ? `.${only.title}` : "");
      only.owner = true;
    }
    only.parent = item.parent;
    return [only];
  }

  #addWeights(item) {
    item.children = item.children.flatMap((child) => {
      if (child.isGroup) this.#addWeights(child);
      const guests = child.isGroup ? [] : (this.guests.get(child.node) ?? []);
      return [...guests.filter((w) => w !== child.node).map((w) => this.#weight(item, w)), child];
    });
  }

  #weight(parent, node) {
    const id = this.model.id(node);
    const item = new Item(parent, id.slice(id.lastIndexOf("/") + 1), { node, key: `node ${node}` });
    this.itemOf[node] = item;
    return item;
  }

  /** Cut what follows each other into ranges, where a module has more boxes than one can read. */
  #chunk(item) {
    if (!item.isGroup) return;
    for (const child of item.children) this.#chunk(child);
    while (item.children.length > CROWD) {
      const count = Math.ceil(item.children.length / CHUNK);
      const size = Math.ceil(item.children.length / count);
      const ranges = [];
      for (let first = 0; first < item.children.length; first += size) {
        const children = item.children.slice(first, first + size);
        const title = rangeTitle(children);
        const key = `${item.key}|${children[0].key}..${children.at(-1).key}`;
        const range = new Item(item, title, { type: "range", path: item.path, key });
        range.children = children;
        for (const child of children) child.parent = range;
        ranges.push(range);
      }
      item.children = ranges;
    }
  }

  #settle(item, depth) {
    item.depth = depth;
    if (!item.isGroup) { item.first = item.node; item.ops = this.model.ops(item.node); return; }
    this.groups.set(item.key, item);
    item.ops = 0;
    for (const child of item.children) {
      child.parent = item;
      this.#settle(child, depth + 1);
      item.ops += child.ops;
    }
    item.first = Math.min(...item.children.map((child) => child.first));
  }

  /** The sum of a key over an item with its weights; null if it is unknown, text if an expression. */
  sum(item, key) {
    if (!item.sums.has(key)) item.sums.set(key, this.#add(item, key));
    return item.sums.get(key);
  }

  #add(item, key) {
    if (this.model.isSymbolic(key)) {
      if (!item.isGroup && key !== "bytes") return this.model.get(key, item.node);
      const whole = item.type !== "range" && item.type !== "phase";
      return (whole && this.model.data.sums[item.path]?.[key]) || null;
    }
    let sum = 0;
    for (const node of item.nodes()) {
      for (const part of [node, ...(this.guests.get(node) ?? [])]) {
        const value = this.model.amount(key, part);
        if (!Number.isNaN(value)) sum += value;
      }
    }
    return sum;
  }

  /** The first box of a module: its own, or that of what it consists of. */
  module(path) {
    const inner = `${path}.`;
    let found = null;
    for (const group of this.groups.values()) {
      if (group.type === "range") continue;
      if (group.path === path) return group;
      if (!found && group.path.startsWith(inner)) found = group;
    }
    const inside = (item) => item && this.model.modules(item.node).some((m) => m.path === path);
    return found ?? this.itemOf.find(inside) ?? null;
  }
}

function rangeTitle(children) {
  const [first, last] = [children[0], children.at(-1)];
  return `${first.title.split(" … ")[0]} … ${last.title.split(" … ").at(-1)}`;
}

/** For every weight the node beside which it stands: the first one that uses it. */
function hosts(model) {
  const found = new Map();
  for (let i = 0; i < model.count; i++) {
    if (!model.isWeight(i)) continue;
    const users = model.outOf[i].map((edge) => edge.node);
    found.set(i, users.length ? Math.min(...users) : i);
  }
  return found;
}


/** A module's path without that of the module around it; a body keeps its name only. */
function below(path, outer) {
  const body = path.lastIndexOf("#");
  if (body >= 0) return path.slice(body + 1);
  return outer && path.startsWith(`${outer}.`) ? path.slice(outer.length + 1) : path;
}
