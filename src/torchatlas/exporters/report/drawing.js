// Puts the boxes and lines that are in sight into the SVG, and takes the others out.

const MARGIN = 200;
const SMALLEST = 5;
const READABLE = 0.4;

class Drawing {
  constructor(svg, picture) {
    this.picture = picture;
    this.world = draw("g");
    this.layers = ["areas", "lines", "marks", "boxes"].map((name) => draw("g", { class: name }));
    this.world.append(...this.layers);
    svg.append(this.#arrowHeads(), this.world);
    this.shown = new Map();
  }

  #arrowHeads() {
    const head = (id) => draw(
      "marker",
      { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" },
      draw("path", { d: "M0,0.5L8,4L0,7.5z" }),
    );
    return draw("defs", {}, head("arrow"), head("arrow-chosen"));
  }

  /** Forget every element: the layout or the look has changed. */
  clear() {
    for (const { element } of this.shown.values()) element.remove();
    this.shown.clear();
  }

  /** Draw what a view of the world shows: {x, y, k, width, height}, k pixels a unit. */
  update(scene, view) {
    const { k } = view;
    this.world.setAttribute("transform", `translate(${view.x},${view.y}) scale(${k})`);
    this.world.classList.toggle("far", k < READABLE);
    const sight = {
      left: (-view.x - MARGIN) / k, right: (view.width - view.x + MARGIN) / k,
      top: (-view.y - MARGIN) / k, bottom: (view.height - view.y + MARGIN) / k,
    };
    const wanted = new Map();
    this.#collect(scene, sight, k, wanted);
    for (const [key, { element }] of this.shown) {
      if (!wanted.has(key)) { element.remove(); this.shown.delete(key); }
    }
    for (const [key, thing] of wanted) {
      if (!this.shown.has(key)) {
        thing.element = thing.create();
        this.shown.set(key, thing);
        this.layers[thing.layer].append(thing.element);
      } else if (thing.layer === 0) this.layers[0].append(this.shown.get(key).element);
    }
  }

  #collect(scene, sight, k, wanted) {
    if (!touches(scene, sight)) return;
    if (scene.item.parent) {
      wanted.set(scene, { layer: 0, create: () => this.#area(scene) });
      wanted.set(scene.rows, { layer: 3, create: () => this.#head(scene) });
      if (scene.height * k < 3 * SMALLEST) return;
    }
    for (const line of scene.lines) {
      if (touches(line, sight)) wanted.set(line, { layer: 1, create: () => this.#line(line) });
    }
    for (const box of scene.boxes) {
      const seen = touches(box, sight) && box.height * k >= SMALLEST;
      if (seen) wanted.set(box, { layer: 3, create: () => this.#box(box) });
    }
    for (const inner of scene.scenes) this.#collect(inner, sight, k, wanted);
  }

  #area({ item, x, y, width, height }) {
    const area = draw(
      "g",
      { class: `area level-${item.depth % 2}${this.#chosen(item)}`, transform: `translate(${x},${y})` },
      draw("rect", { width, height, rx: 10 }),
    );
    return this.#wire(area, item);
  }

  /** The title of an open module, which stands above the lines. */
  #head({ item, x, y, width }) {
    const kind = item.type === "range" || item.type === "phase" ? "" : lastPart(item.type);
    const title = fitText(item.title, width - 60, 12, 600);
    const type = fitText(kind, width - 60 - textWidth(title, 12, 600), 11);
    const head = draw(
      "g",
      { class: `head-of level-${item.depth % 2}`, transform: `translate(${x},${y})` },
      draw("text", { x: PAD, y: 20, class: "title" }, title),
      draw("text", { x: PAD + textWidth(title, 12, 600) + 8, y: 20, class: "sub" }, type),
      draw(
        "g", { class: "sign", transform: `translate(${width - 20},15)` },
        draw("circle", { r: 8 }), draw("path", { d: "M-4,0H4" }),
      ),
    );
    return this.#wire(head, item);
  }

  #chosen(item) { return this.picture.chosen === item ? " chosen" : ""; }

  #box({ item, x, y, width, height }) {
    const { title, sub, small } = this.picture.words(item);
    const look = this.picture.look(item);
    const group = draw("g", {
      class: `box ${look.name}${item.isGroup ? " module" : ""}${small ? " small" : ""}${this.#chosen(item)}`,
      transform: `translate(${x},${y})`,
    });
    if (item.isGroup) group.append(draw("rect", { class: "behind", x: 4, y: 4, width, height, rx: 8 }));
    const rect = draw("rect", { class: "face", width, height, rx: item.isGroup ? 8 : 6 });
    if (look.fill) rect.style.fill = look.fill;
    const middle = (item.isGroup ? width - 24 : width) / 2;
    group.append(
      rect,
      draw("text", { x: middle, y: sub ? height / 2 - 4 : height / 2 + 4, class: "title" }, title),
    );
    if (sub) group.append(draw("text", { x: middle, y: height / 2 + 12, class: "sub" }, sub));
    if (item.isGroup) {
      group.append(draw(
        "g", { class: "sign", transform: `translate(${width - 18},${height / 2})` },
        draw("circle", { r: 8 }), draw("path", { d: "M-4,0H4M0,-4V4" }),
      ));
    }
    return this.#wire(group, item);
  }

  #wire(element, item) {
    element.dataset.name = item.isGroup ? item.path : this.picture.model.id(item.node);
    element.itemOfAtlas = item;
    element.append(draw("title", {}, this.picture.tip(item)));
    return element;
  }

  #line(line) {
    const { chosen } = this.picture;
    const marked = chosen && (line.net === chosen || line.targets.includes(chosen));
    const element = draw("path", { d: line.path, class: marked ? "chosen" : "" });
    if (line.arrow) element.setAttribute("marker-end", `url(#${marked ? "arrow-chosen" : "arrow"})`);
    return element;
  }

  /** Draw curves straight from box to box, for edges that have no line. */
  marks(ends) {
    this.layers[2].replaceChildren(...ends.map(([from, to]) => {
      const [x0, y0] = [from.x + from.width / 2, from.y + from.height];
      const [x1, y1] = [to.x + to.width / 2, to.y];
      const bend = Math.max(40, Math.abs(y1 - y0) / 3);
      const side = Math.abs(x1 - x0) < 80 ? 120 : 0;
      const path = `M${x0},${y0}C${x0 + side},${y0 + bend} ${x1 + side},${y1 - bend} ${x1},${y1}`;
      return draw("path", { d: path, class: "chosen far-edge" });
    }));
  }
}

function touches({ x, y, width, height }, { left, right, top, bottom }) {
  return x <= right && x + width >= left && y <= bottom && y + height >= top;
}
