// The picture: which modules are open, what is chosen, and from where one looks at it.

const FIRST_VIEW = 40;
const FEW = 10;
const SMALLEST_SCALE = 0.2;
const FIRST_SCALE = 0.75;
const MOST_BOXES = 1500;
const ZOOMS = [0.02, 4];

class Picture {
  constructor(model, svg) {
    this.model = model;
    this.svg = svg;
    this.chosen = null;
    this.weights = false;
    this.colour = "family";
    this.view = { x: 0, y: 0, k: 1, width: 1, height: 1 };
    this.onChoose = new Signal();
    this.onColour = new Signal();
    this.drawing = new Drawing(svg, this);
    this.#plant();
    this.#begin();
    this.#listen();
  }

  #plant(open = null) {
    this.tree = new Tree(this.model, { weights: this.weights });
    if (open) for (const key of open) if (this.tree.groups.has(key)) this.tree.groups.get(key).expanded = true;
  }

  /** Open modules until there is enough to see, but no more than one can read. */
  #begin() {
    const count = () => {
      const boxes = (item) => (item.expanded ? item.children.reduce((n, c) => n + boxes(c), 0) : 1);
      return boxes(this.tree.root);
    };
    let boxes = count();
    const closed = this.tree.root.children.filter((child) => child.isGroup);
    while (boxes < FEW && closed.length) {
      closed.sort((a, b) => b.ops - a.ops);
      const next = closed.findIndex((group) => boxes - 1 + group.children.length <= FIRST_VIEW);
      if (next < 0) break;
      const [group] = closed.splice(next, 1);
      group.expanded = true;
      closed.push(...group.children.filter((child) => child.isGroup));
      boxes = count();
    }
  }

  // -- layout ------------------------------------------------------------------------------

  refresh() {
    this.drawing.clear();
    this.found = layOut(this.tree, (item) => this.size(item));
    this.places = new Map();
    const gather = (scene) => {
      this.places.set(scene.item, scene);
      for (const box of scene.boxes) this.places.set(box.item, box);
      scene.scenes.forEach(gather);
    };
    gather(this.found.scene);
    this.#measure();
    this.onColour.send();
    this.#mark();
    this.redraw();
  }

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (this.found) this.drawing.update(this.found.scene, this.view);
    });
  }

  /** Draw anew, as the look of boxes has changed but not their places. */
  repaint() {
    this.drawing.clear();
    this.redraw();
  }

  size(item) {
    const { title, sub, small } = this.words(item);
    const room = Math.max(textWidth(title, small ? 10.5 : 12.5, small ? 400 : 600), textWidth(sub, small ? 9.5 : 11));
    if (small) return { width: Math.max(56, room + 16), height: WEIGHT_HEIGHT };
    const height = item.isGroup ? GROUP_HEIGHT : LEAF_HEIGHT;
    return { width: Math.max(88, room + (item.isGroup ? 52 : 28)), height };
  }

  /** What stands in a box. */
  words(item) {
    const { model, tree } = this;
    const small = !item.isGroup && model.isWeight(item.node);
    const title = fitText(item.title, 220, small ? 10.5 : 12.5, small ? 400 : 600);
    let about = "";
    if (item.isGroup) {
      const kind = item.type === "range" || item.type === "phase" ? "" : lastPart(item.type);
      const ops = item.ops ? `${grouped(item.ops)} op${item.ops === 1 ? "" : "s"}` : "";
      about = [kind, ops].filter(Boolean).join(" · ");
    } else {
      const op = item.owner && model.isOp(item.node) ? `${lastPart(model.get("op", item.node))} · ` : "";
      about = op + model.shape(item.node);
    }
    if (this.heat) {
      const value = tree.sum(item, this.colour);
      const shown = value === 0 ? "" : number(value, model.unit(this.colour));
      about = item.isGroup || model.isOp(item.node) ? shown : about;
    }
    return { title, sub: fitText(about, 220, small ? 9.5 : 11), small };
  }

  tip(item) {
    const { model } = this;
    if (item.isGroup) return `${item.path || item.title}\n${item.type === "range" ? "" : item.type}`.trim();
    const lines = [model.id(item.node), model.get("op", item.node) || model.kinds[item.node]];
    return [...lines, ...model.tensors(item.node).slice(0, 4).map(tensorText)].join("\n");
  }

  // -- colours -----------------------------------------------------------------------------

  get heat() { return this.colour !== "family" && this.colour !== "device"; }

  setColour(colour) {
    this.colour = colour;
    this.refresh();
  }

  /** The class of a box and, where a key colours it, its fill. */
  look(item) {
    const { model } = this;
    const name = item.isGroup ? "f-module" : `f-${model.family(item.node)}`;
    if (this.colour === "family") return { name };
    if (this.colour === "device") {
      const devices = new Set();
      for (const node of item.isGroup ? item.nodes() : [item.node]) devices.add(model.get("device", node) || "");
      devices.delete("");
      const place = devices.size === 1 ? this.devices().indexOf([...devices][0]) : -1;
      return place < 0 ? { name: "f-plain" } : { name: `f-plain device-${place % 8}` };
    }
    const value = this.tree.sum(item, this.colour);
    const small = !item.isGroup && !model.isOp(item.node);
    if (typeof value !== "number" || small) return { name: small ? name : "f-plain" };
    return { name: "f-plain heated", fill: heatColour(Math.sqrt(value / (this.largest || 1))) };
  }

  /** The most that a box in the picture has of the key that colours it. */
  #measure() {
    this.largest = 0;
    if (!this.heat) return;
    for (const item of this.places.keys()) {
      const value = item.isGroup && item.expanded ? 0 : this.tree.sum(item, this.colour);
      if (value > this.largest) this.largest = value;
    }
  }

  devices() {
    const found = this.model.columns.get("device") ?? [];
    return [...new Set(found.filter(Boolean))].sort();
  }

  // -- choosing, opening and closing -------------------------------------------------------

  choose(item, { reveal = false } = {}) {
    if (item && !item.isGroup && item.node >= 0) item = this.tree.itemOf[item.node] ?? item;
    let opened = false;
    for (let group = item?.parent; group; group = group.parent) {
      opened ||= !group.expanded;
      if (reveal) group.expanded = true;
    }
    this.chosen = item;
    if (reveal && opened) this.refresh();
    else {
      this.#mark();
      this.repaint();
    }
    if (reveal && item) this.moveTo(item);
    this.onChoose.send(item);
  }

  /** Choose a node by its position, and show it. */
  chooseNode(node, reveal = true) {
    if (!this.tree.itemOf[node]) this.setWeights(true);
    this.choose(this.tree.itemOf[node], { reveal });
  }

  setWeights(weights) {
    if (weights === this.weights) return;
    this.weights = weights;
    byId("weights").checked = weights;
    const open = [...this.tree.groups.values()].filter((group) => group.expanded).map((group) => group.key);
    const node = this.chosen && !this.chosen.isGroup ? this.chosen.node : -1;
    this.#plant(open);
    this.chosen = node >= 0 ? this.tree.itemOf[node] : null;
    this.refresh();
  }

  toggle(group) {
    const before = this.places.get(group);
    const [x, y] = [before.x, before.y];
    group.expanded = !group.expanded;
    this.refresh();
    const after = this.places.get(group);
    this.view.x += (x + before.width / 2 - after.x - after.width / 2) * this.view.k;
    this.view.y += (y - after.y) * this.view.k;
    this.#keepInSight(after);
    this.redraw();
  }

  /** Open every closed module that is drawn, as far as the picture stays of a readable size. */
  expandAll() {
    const closed = [...this.places.keys()].filter((item) => item.isGroup && !item.expanded);
    let boxes = this.places.size;
    let left = 0;
    for (const group of closed) {
      if (boxes + group.children.length > MOST_BOXES) { left++; continue; }
      group.expanded = true;
      boxes += group.children.length;
    }
    this.refresh();
    this.fit(SMALLEST_SCALE);
    say(left ? `${left} modules stay closed: open them one by one` : "");
  }

  collapseAll() {
    for (const group of this.tree.groups.values()) group.expanded = group === this.tree.root;
    if (this.chosen?.seen !== this.chosen) this.chosen = null;
    this.refresh();
    this.fit();
  }

  /** Draw the edges of the chosen box that the layout leaves out. */
  #mark() {
    const seen = this.chosen && (this.places.has(this.chosen) ? this.chosen : null);
    const ends = this.found.hidden.filter(([from, to]) => from === seen || to === seen);
    this.drawing.marks(ends.slice(0, 200).map(([from, to]) => [this.places.get(from), this.places.get(to)]));
    const { length } = this.found.hidden;
    say(length ? `${grouped(length)} long edges appear when you choose one of their ends` : "");
  }

  // -- the camera --------------------------------------------------------------------------

  resize() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (!width || !height) return;
    const first = this.view.width === 1;
    Object.assign(this.view, { width, height });
    if (!this.found) this.refresh();
    if (first) this.fit(FIRST_SCALE);
    this.redraw();
  }

  /** Show all, but no smaller than `least`: then the top of it. */
  fit(least = ZOOMS[0]) {
    const { scene } = this.found;
    const { width, height } = this.view;
    const k = Math.max(least, Math.min(1.25, (width - 60) / scene.width, (height - 80) / scene.height));
    const y = k * scene.height > height - 80 ? 56 - TITLE_HEIGHT * k : (height - k * scene.height) / 2 + 10;
    Object.assign(this.view, { k, x: (width - k * scene.width) / 2, y });
    this.redraw();
  }

  zoom(factor, x = this.view.width / 2, y = this.view.height / 2) {
    const { view } = this;
    const k = Math.min(ZOOMS[1], Math.max(Math.min(ZOOMS[0], view.k), view.k * factor));
    view.x = x - ((x - view.x) / view.k) * k;
    view.y = y - ((y - view.y) / view.k) * k;
    view.k = k;
    this.redraw();
  }

  moveTo(item) {
    const place = this.places.get(item);
    if (!place) return;
    const { width, height } = this.view;
    const room = Math.min(1, (width - 80) / place.width, (height - 120) / place.height);
    const k = Math.min(room, Math.max(this.view.k, 0.8));
    this.#glide({
      k,
      x: width / 2 - (place.x + place.width / 2) * k,
      y: Math.max(height / 2 - (place.y + place.height / 2) * k, item.isGroup ? -Infinity : -1e9),
    });
  }

  #glide(goal) {
    cancelAnimationFrame(this.gliding);
    const start = { ...this.view };
    if (calm.matches || document.hidden) { Object.assign(this.view, goal); this.redraw(); return; }
    const began = performance.now();
    const step = (now) => {
      const t = Math.min(1, Math.max(0, now - began) / 220);
      const eased = 1 - (1 - t) ** 3;
      for (const key of ["x", "y", "k"]) this.view[key] = start[key] + (goal[key] - start[key]) * eased;
      this.redraw();
      if (t < 1) this.gliding = requestAnimationFrame(step);
    };
    this.gliding = requestAnimationFrame(step);
  }

  /** Move so that the top of a place that has just grown can be seen. */
  #keepInSight(place) {
    const { view } = this;
    const top = place.y * view.k + view.y;
    if (top < 50) view.y += 50 - top;
    const left = place.x * view.k + view.x;
    const right = left + place.width * view.k;
    if (place.width * view.k <= view.width - 40) {
      if (left < 20) view.x += 20 - left;
      else if (right > view.width - 20) view.x -= right - view.width + 20;
    }
  }

  // -- mouse and keys ----------------------------------------------------------------------

  #listen() {
    const { svg } = this;
    svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { left, top } = svg.getBoundingClientRect();
      const turned = event.deltaY * (event.deltaMode === 1 ? 16 : 1) * (event.ctrlKey ? 0.01 : 0.0016);
      this.zoom(Math.exp(-turned), event.clientX - left, event.clientY - top);
    }, { passive: false });
    let from = null;
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      from = { x: event.clientX, y: event.clientY, vx: this.view.x, vy: this.view.y, moved: false };
    });
    svg.addEventListener("pointermove", (event) => {
      if (!from || !(event.buttons & 1)) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      if (!from.moved && Math.hypot(dx, dy) < 4) return;
      if (!from.moved) svg.setPointerCapture(event.pointerId);
      from.moved = true;
      cancelAnimationFrame(this.gliding);
      Object.assign(this.view, { x: from.vx + dx, y: from.vy + dy });
      svg.classList.add("dragging");
      this.redraw();
    });
    svg.addEventListener("click", (event) => {
      svg.classList.remove("dragging");
      const moved = from?.moved;
      from = null;
      if (moved) return;
      const target = event.target.closest(".box, .area, .head-of");
      const item = target?.itemOfAtlas ?? null;
      if (item?.isGroup && event.target.closest(".sign")) this.toggle(item);
      else this.choose(item);
    });
    svg.addEventListener("dblclick", (event) => {
      const item = event.target.closest(".box, .area, .head-of")?.itemOfAtlas;
      if (item?.isGroup) this.toggle(item);
    });
    svg.addEventListener("keydown", (event) => this.#key(event));
    calm.addEventListener("change", () => this.redraw());
    dark.addEventListener("change", () => this.refresh());
  }

  #key(event) {
    const { key } = event;
    if (key === "+" || key === "=") this.zoom(1.25);
    else if (key === "-") this.zoom(0.8);
    else if (key === "0") this.fit();
    else if (key === "Enter" && this.chosen?.isGroup) this.toggle(this.chosen);
    else if (key.startsWith("Arrow")) this.#step(key.slice(5));
    else return;
    event.preventDefault();
  }

  /** Choose the nearest box in a direction: along the edges up and down, else beside. */
  #step(way) {
    const at = this.chosen && this.places.get(this.chosen);
    const boxes = [...this.places].filter(([item]) => item !== this.tree.root && item !== this.chosen);
    if (!at) { if (boxes.length) this.choose(boxes[0][0], { reveal: true }); return; }
    const vertical = way === "Up" || way === "Down";
    const sign = way === "Up" || way === "Left" ? -1 : 1;
    let best = null;
    for (const [item, place] of boxes) {
      if (item.isGroup && item.expanded) continue;
      const dx = place.x + place.width / 2 - at.x - at.width / 2;
      const dy = place.y + place.height / 2 - at.y - at.height / 2;
      const [along, across] = vertical ? [dy * sign, Math.abs(dx)] : [dx * sign, Math.abs(dy)];
      const cost = along + 3 * across;
      if (along > 4 && (!best || cost < best.cost)) best = { item, cost };
    }
    if (best) this.choose(best.item, { reveal: true });
  }
}

/** A colour for a share from 0 to 1: pale to strong. */
function heatColour(share) {
  const stops = dark.matches
    ? [[33, 38, 45], [86, 60, 24], [158, 84, 20], [196, 74, 32]]
    : [[255, 255, 255], [255, 240, 200], [255, 205, 120], [250, 152, 88]];
  const at = Math.min(0.9999, Math.max(0, share)) * (stops.length - 1);
  const [low, high] = [stops[Math.floor(at)], stops[Math.floor(at) + 1]];
  return `rgb(${low.map((c, i) => Math.round(c + (high[i] - c) * (at % 1))).join(",")})`;
}

function say(text) { byId("hint").textContent = text; }
