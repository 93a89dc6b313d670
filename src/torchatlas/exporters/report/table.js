// The nodes as a table: only the rows in sight are in the page.

const ROW_HEIGHT = 30;
const COLUMNS_OF_TABLE = [
  { key: "index", label: "#", number: true, width: "4.5em" },
  { key: "id", label: "node", width: "minmax(16em, 3fr)" },
  { key: "op", label: "op", width: "minmax(12em, 1.2fr)" },
  { key: "module_type", label: "module type", width: "minmax(8em, 1fr)" },
  { key: "shape", label: "output", width: "minmax(10em, 1fr)" },
  { key: "flops", label: "FLOPs", number: true },
  { key: "flops_other", label: "other FLOPs", number: true },
  { key: "bytes", label: "bytes", number: true },
  { key: "params", label: "params", number: true },
  { key: "latency_us", label: "latency", number: true },
  { key: "roofline_us", label: "roofline", number: true },
  { key: "live_bytes", label: "memory", number: true },
  { key: "device", label: "device", width: "6em" },
];
const CONDITION = /^([a-z_]+)(>=|<=|>|<|=)(-?[\d.]+(?:e\d+)?)([kmgtp]?)$/i;
const collator = new Intl.Collator("en", { numeric: true });
const FACTORS = { "": 1, k: 1e3, m: 1e6, g: 1e9, t: 1e12, p: 1e15 };

class NodeTable {
  constructor(model, picture) {
    this.model = model;
    this.picture = picture;
    this.body = byId("grid-body");
    this.space = byId("grid-space");
    this.sort = { key: "index", down: false };
    const always = new Set(["index", "id", "shape", ...(model.has("bytes_read") ? ["bytes"] : [])]);
    this.columns = COLUMNS_OF_TABLE.filter(({ key }) => always.has(key) || model.has(key));
    this.template = this.columns.map(({ width }) => width ?? "minmax(6.5em, 0.7fr)").join(" ");
    this.texts = this.#texts();
    this.#head();
    byId("filter").addEventListener("input", () => this.refresh());
    byId("ops-only").addEventListener("change", () => this.refresh());
    this.body.addEventListener("scroll", () => this.#draw());
    this.body.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#draw()).observe(this.body);
    this.refresh();
  }

  #texts() {
    const { model } = this;
    return model.ids.map((id, i) => {
      const op = model.get("op", i) || model.kinds[i];
      const words = [id, op, model.get("module_type", i), model.get("device", i), model.family(i)];
      return words.filter(Boolean).join(" ").toLowerCase();
    });
  }

  #head() {
    const head = byId("grid-head");
    head.style.gridTemplateColumns = this.template;
    head.replaceChildren(...this.columns.map(({ key, label, number: isNumber }) => {
      const button = make("button", { textContent: label, "data-sort": key, title: this.model.data.fields[key]?.doc ?? "" });
      button.onclick = () => this.sortBy(key);
      return make("div", { role: "columnheader", className: isNumber ? "number" : "", "aria-sort": "none" }, button);
    }));
  }

  sortBy(key) {
    const column = this.columns.find((one) => one.key === key);
    const first = Boolean(column.number) && key !== "index";
    this.sort = { key, down: this.sort.key === key ? !this.sort.down : first };
    this.refresh();
    this.body.scrollTop = 0;
  }

  value(key, node) {
    const { model } = this;
    if (key === "index") return node;
    if (key === "id") return model.id(node);
    if (key === "shape") return model.shape(node);
    if (key === "op") return model.get("op", node) || model.kinds[node];
    if (key === "module_type") return lastPart(model.get(key, node) || "");
    if (key === "bytes") return this.#bytes(node);
    return model.get(key, node);
  }

  #bytes(node) {
    const parts = ["bytes_read", "bytes_written"].map((key) => this.model.get(key, node));
    if (parts.every((part) => part === false)) return false;
    if (parts.every((part) => typeof part === "number")) return parts[0] + parts[1];
    return parts.filter((part) => part !== false && part !== 0).join(" + ");
  }

  refresh() {
    const { model } = this;
    const words = byId("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const tests = words.map((word) => this.#test(word));
    const ops = byId("ops-only").checked;
    this.rows = [];
    for (let i = 0; i < model.count; i++) {
      if ((!ops || model.isOp(i)) && tests.every((test) => test(i))) this.rows.push(i);
    }
    this.#order();
    const all = ops ? model.kinds.filter((kind) => kind === "op").length : model.count;
    byId("row-count").textContent = `${grouped(this.rows.length)} of ${grouped(all)} ${ops ? "ops" : "nodes"}`;
    byId("grid").setAttribute("aria-rowcount", this.rows.length + 1);
    this.space.style.height = `${this.rows.length * ROW_HEIGHT}px`;
    for (const cell of byId("grid-head").children) {
      const mine = cell.firstChild.dataset.sort === this.sort.key;
      cell.setAttribute("aria-sort", mine ? (this.sort.down ? "descending" : "ascending") : "none");
    }
    this.#draw();
  }

  #test(word) {
    const [, key, sign, digits, factor] = CONDITION.exec(word) ?? [];
    if (!key || !this.columns.some((column) => column.key === key && column.number)) {
      return (node) => this.texts[node].includes(word);
    }
    const bound = Number(digits) * FACTORS[factor.toLowerCase()];
    const compare = {
      ">": (v) => v > bound, "<": (v) => v < bound, "=": (v) => v === bound,
      ">=": (v) => v >= bound, "<=": (v) => v <= bound,
    }[sign];
    return (node) => {
      const value = this.value(key, node);
      return typeof value === "number" && compare(value);
    };
  }

  #order() {
    const { key, down } = this.sort;
    if (key === "index") { if (down) this.rows.reverse(); return; }
    const values = new Map(this.rows.map((node) => [node, this.value(key, node)]));
    const isNumber = this.columns.find((column) => column.key === key).number;
    // Numbers come first, then expressions, what is unknown, and what is not there.
    const group = (value) => {
      if (value === false || value === "") return 3;
      if (value === null) return 2;
      return isNumber && typeof value === "string" ? 1 : 0;
    };
    this.rows.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      if (group(x) !== group(y)) return group(x) - group(y);
      const way = typeof x === "number" ? x - y : collator.compare(x ?? "", y ?? "");
      return (down ? -way : way) || a - b;
    });
  }

  #draw() {
    const first = Math.max(0, Math.floor(this.body.scrollTop / ROW_HEIGHT) - 4);
    const last = Math.min(this.rows.length, first + Math.ceil(this.body.clientHeight / ROW_HEIGHT) + 8);
    const rows = [];
    for (let i = first; i < last; i++) rows.push(this.#row(i));
    this.space.replaceChildren(...rows);
  }

  #row(i) {
    const node = this.rows[i];
    const item = this.picture.chosen;
    const chosen = item !== null && !item.isGroup && item.node === node;
    const row = make("div", {
      role: "row", className: `row${chosen ? " chosen" : ""}`,
      "aria-rowindex": i + 2, "aria-selected": String(chosen),
    });
    row.dataset.id = this.model.id(node);
    row.style.transform = `translateY(${i * ROW_HEIGHT}px)`;
    row.style.gridTemplateColumns = this.template;
    row.append(...this.columns.map((column) => this.#cell(column, node)));
    row.onclick = () => this.picture.chooseNode(node);
    row.ondblclick = () => { openTab("graph"); this.picture.chooseNode(node); };
    return row;
  }

  #cell({ key, number: isNumber }, node) {
    const value = this.value(key, node);
    let text = value === false ? "" : value;
    if (isNumber && key !== "index") text = value === false ? "" : number(value, this.model.unit(key).replace("FLOP", ""));
    const className = isNumber ? "number" : key === "id" ? "mono" : "";
    const cell = make("div", { role: "cell", className, textContent: text, title: text });
    cell.dataset.column = key;
    if (key === "op") cell.prepend(make("i", { className: `dot f-${this.model.family(node)}` }));
    return cell;
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter") { openTab("graph"); return; }
    if (!step || !this.rows.length) return;
    event.preventDefault();
    const { chosen } = this.picture;
    const at = chosen && !chosen.isGroup ? this.rows.indexOf(chosen.node) : -1;
    const next = Math.min(this.rows.length - 1, Math.max(0, at + step));
    const top = next * ROW_HEIGHT;
    if (top < this.body.scrollTop) this.body.scrollTop = top;
    else if (top + ROW_HEIGHT > this.body.scrollTop + this.body.clientHeight) this.body.scrollTop = top + ROW_HEIGHT - this.body.clientHeight;
    this.picture.chooseNode(this.rows[next]);
  }
}
