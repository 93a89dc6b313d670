// From the tree, some of its modules open, to boxes and lines: every open module is laid out from
// the inside out and is one box to what is around it. An edge runs between the outermost closed
// boxes around its ends, and crosses the border of an open module at a port.

const LEAF_HEIGHT = 42;
const GROUP_HEIGHT = 48;
const WEIGHT_HEIGHT = 34;
const TITLE_HEIGHT = 30;
const PAD = 14;
const MAX_PORTS = 12;
const ARROW = 7;

/** Return the open modules and the boxes in them, placed, and the edges that are not drawn. */
function layOut(tree, label) {
  show(tree.root, null);
  const { pairs, hidden } = lift(tree);
  const scenes = new Map();
  for (const [from, to] of pairs) connect(scenes, from, to);
  const scene = arrangeGroup(tree.root, scenes, label);
  position(scene, 0, 0);
  return { scene, hidden };
}

/** Write to every item which box stands for it. */
function show(item, seen) {
  item.seen = seen ?? (item.isGroup && item.expanded ? null : item);
  if (item.isGroup) for (const child of item.children) show(child, item.seen);
}

/** Return the pairs of boxes that an edge joins, and those that would take too many ports. */
function lift(tree) {
  const { model, itemOf } = tree;
  const found = new Map();
  for (let node = 0; node < model.count; node++) {
    const from = itemOf[node]?.seen;
    if (!from) continue;
    for (const edge of model.outOf[node]) {
      const to = itemOf[edge.node]?.seen;
      if (to && to !== from) found.set(from.number * itemCount + to.number, [from, to]);
    }
  }
  const entries = new Map();
  const exits = new Map();
  for (const [from, to] of found.values()) {
    for (const group of crossed(to, from)) ports(entries, group).add(from);
    for (const group of crossed(from, to)) ports(exits, group).add(from);
  }
  for (const sets of [entries, exits]) for (const [group, froms] of sets) sets.set(group, latest(froms));
  const pairs = [];
  const hidden = [];
  for (const [from, to] of found.values()) {
    const drawn =
      crossed(to, from).every((group) => entries.get(group).has(from)) &&
      crossed(from, to).every((group) => exits.get(group).has(from));
    (drawn ? pairs : hidden).push([from, to]);
  }
  return { pairs, hidden };
}

function ports(sets, group) {
  if (!sets.has(group)) sets.set(group, new Set());
  return sets.get(group);
}

/** Of too many sources keep those that run last: what a step of training saved comes from afar. */
function latest(froms) {
  if (froms.size <= MAX_PORTS) return froms;
  return new Set([...froms].sort((a, b) => b.first - a.first).slice(0, MAX_PORTS));
}

/** The open modules around `item` that `other` is not in, from the inside out. */
function crossed(item, other) {
  const around = new Set();
  for (let group = other.parent; group; group = group.parent) around.add(group);
  const found = [];
  for (let group = item.parent; group && !around.has(group); group = group.parent) found.push(group);
  return found;
}

/** Note an edge in every open module that it passes: where it comes from there, where it goes. */
function connect(scenes, from, to) {
  const [rising, falling] = [crossed(from, to), crossed(to, from)];
  let upper = from;
  for (const group of rising) {
    note(scenes, group, from, upper, null, to);
    upper = group;
  }
  let lower = to;
  for (const group of falling) {
    note(scenes, group, from, null, lower, to);
    lower = group;
  }
  note(scenes, upper.parent, from, upper, lower, to);
}

function note(scenes, group, key, from, to, target) {
  if (!scenes.has(group)) scenes.set(group, new Map());
  const nets = scenes.get(group);
  if (!nets.has(key)) nets.set(key, { key, from, ends: new Map() });
  const { ends } = nets.get(key);
  if (!ends.has(to)) ends.set(to, []);
  ends.get(to).push(target);
}

function arrangeGroup(group, scenes, label) {
  const inner = new Map();
  const slotOf = new Map();
  for (const child of group.children) {
    if (child.isGroup && child.expanded) inner.set(child, arrangeGroup(child, scenes, label));
    const { width, height } = inner.get(child) ?? label(child);
    slotOf.set(child, new Slot(width, height, child));
  }
  const nets = [...(scenes.get(group)?.values() ?? [])].map(({ key, from, ends }) => ({
    key,
    from: from && slotOf.get(from),
    to: [...ends].map(([to, targets]) => ({ slot: to && slotOf.get(to), targets })),
  }));
  const port = (slot, net, way) => {
    const scene = inner.get(slot.item);
    const end = scene && (way === "out" ? scene.exits : scene.entries).get(net.key);
    return end ? end.x + PAD : slot.width / 2;
  };
  const found = arrange([...slotOf.values()], nets, port);
  const title = textWidth(group.title, 12, 600) + textWidth(lastPart(group.type), 11) + 70;
  const margin = Math.max(0, (title - 2 * PAD - found.width) / 2);
  for (const slot of found.rows.flat()) slot.x += margin;
  const width = found.width + 2 * (PAD + margin);
  const height = TITLE_HEIGHT + found.height + 8;
  return { item: group, inner, ...found, width, height };
}

/** Give everything its place in the whole, and make lines of the links. */
function position(scene, x, y) {
  Object.assign(scene, { x, y });
  const [left, top] = [x + PAD, y + TITLE_HEIGHT];
  scene.boxes = [];
  scene.scenes = [];
  for (const row of scene.rows) {
    for (const slot of row) {
      if (slot.item === null) continue;
      const inner = scene.inner.get(slot.item);
      if (inner) {
        position(inner, left + slot.x, top + slot.y);
        scene.scenes.push(inner);
      } else {
        const { width, height, item } = slot;
        scene.boxes.push({ item, x: left + slot.x, y: top + slot.y, width, height });
      }
    }
  }
  scene.lines = scene.links.map((link) => line(link, scene, left, top));
}

function line({ upper, from, lower, to, net, targets }, scene, left, top) {
  const last = scene.rows.length - 1;
  const [x0, x1] = [left + upper.x + from, left + lower.x + to];
  const end = lower.row === last && lower.isBend ? scene.y + scene.height : top + lower.y;
  const [above, beneath] = [scene.rows[upper.row], scene.rows[lower.row]];
  const y0 = top + above.top + above.height;
  const start = upper.row === 0 ? scene.y : upper.isBend ? y0 : top + upper.y + upper.height;
  const arrow = lower.item !== null && !scene.inner.has(lower.item);
  // An arrow needs a straight end that gives it its direction.
  const y1 = top + beneath.top - (arrow ? ARROW : 0);
  const bottom = lower.isBend && lower.row !== last ? y1 + beneath.height : end;
  const middle = (y0 + y1) / 2;
  const curve = `C${r(x0)},${r(middle)} ${r(x1)},${r(middle)} ${r(x1)},${r(y1)}`;
  const path = `M${r(x0)},${r(start)}V${r(y0)}${curve}V${r(bottom)}`;
  return {
    path, net, targets, arrow,
    x: Math.min(x0, x1), y: start, width: Math.abs(x1 - x0), height: bottom - start,
  };
}

const r = (value) => Math.round(value * 10) / 10;
