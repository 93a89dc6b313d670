// A layered drawing of what is in one box: rows by the longest path, an order in each row that
// follows the neighbours, and places as near to the neighbours as the boxes' widths allow.
//
// A slot is what takes room in a row: a box, a port of the box around, or a bend of an edge.

const GAP = 26;
const BEND_GAP = 14;
const ROW_GAP = 28;

class Slot {
  constructor(width, height, item = null) {
    this.width = width;
    this.height = height;
    this.item = item;
    this.row = 0;
    this.x = 0;
    this.up = [];
    this.down = [];
  }

  get isBend() { return this.item === null; }
}

/** Join two slots of neighbouring rows, `from` and `to` counted from their left sides. */
function join(upper, from, lower, to, net, targets) {
  const link = { upper, from, lower, to, net, targets };
  upper.down.push(link);
  lower.up.push(link);
  return link;
}

/**
 * Lay out `slots`, which come in an order in which every edge of `nets` runs forwards.
 *
 * A net is {key, from, to: [{slot, targets}]}: a source and where it goes, `from` null for what
 * comes in from the box around, `to[].slot` null for what leaves it. `port(slot, net, way)` gives
 * the place of an edge's end on a slot. Returns the slots by row, the links, the ports by net, and
 * the width and height of it all.
 */
function arrange(slots, nets, port) {
  const last = rank(slots, nets);
  const rows = Array.from({ length: last + 2 }, () => []);
  for (const slot of slots) rows[slot.row].push(slot);
  const links = [];
  const entries = new Map();
  const exits = new Map();
  for (const net of nets) route(net, rows, links, entries, exits, port);
  order(rows);
  place(rows);
  return { rows, links, entries, exits, ...measure(rows) };
}

/** Give each slot its row, 1 and up; return the last. What nothing comes into stands by its user. */
function rank(slots, nets) {
  const preds = new Map(slots.map((slot) => [slot, []]));
  const succs = new Map(slots.map((slot) => [slot, []]));
  for (const net of nets) {
    for (const { slot } of net.to) {
      if (net.from === null || slot === null) continue;
      preds.get(slot).push(net.from);
      succs.get(net.from).push(slot);
    }
  }
  let last = 1;
  for (const slot of slots) {
    slot.row = 1;
    for (const pred of preds.get(slot)) slot.row = Math.max(slot.row, pred.row + 1);
    last = Math.max(last, slot.row);
  }
  const fed = new Set(nets.filter((net) => net.from === null).flatMap((net) => net.to.map((to) => to.slot)));
  for (const slot of [...slots].reverse()) {
    const users = succs.get(slot);
    if (preds.get(slot).length || fed.has(slot) || !users.length) continue;
    slot.row = Math.max(1, Math.min(...users.map((user) => user.row)) - 1);
  }
  return last;
}

/** Draw one net through the rows: a bend in every row that it passes. */
function route(net, rows, links, entries, exits, port) {
  const bottom = rows.length - 1;
  let at = net.from;
  let offset = at ? port(at, net, "out") : 0;
  if (!at) {
    at = new Slot(0, 0);
    rows[0].push(at);
    entries.set(net.key, at);
  }
  const ends = [...net.to].sort((a, b) => (a.slot?.row ?? bottom) - (b.slot?.row ?? bottom));
  let row = at.row;
  ends.forEach(({ slot, targets }, i) => {
    const goal = slot?.row ?? bottom;
    const rest = ends.slice(i).flatMap((end) => end.targets);
    while (row + 1 < goal) {
      const bend = new Slot(0, 0);
      bend.row = ++row;
      rows[row].push(bend);
      links.push(join(at, offset, bend, 0, net.key, rest));
      [at, offset] = [bend, 0];
    }
    let end = slot;
    if (!end) {
      end = new Slot(0, 0);
      end.row = bottom;
      rows[bottom].push(end);
      exits.set(net.key, end);
    }
    links.push(join(at, offset, end, slot ? port(slot, net, "in") : 0, net.key, targets));
  });
}

/** Order every row by where its neighbours stand, downwards and upwards in turn. */
function order(rows) {
  const number = (row) => row.forEach((slot, i) => { slot.x = i - (row.length - 1) / 2; });
  rows.forEach(number);
  for (let sweep = 0; sweep < 6; sweep++) {
    const downwards = sweep % 2 === 0;
    for (const row of downwards ? rows : [...rows].reverse()) {
      for (const slot of row) {
        const links = downwards ? slot.up : slot.down;
        const other = downwards ? "upper" : "lower";
        const places = links.map((link) => link[other].x + spread(link, downwards));
        slot.wish = places.length ? mean(places) : slot.x;
      }
      row.sort((a, b) => a.wish - b.wish);
      number(row);
    }
  }
}

/** How far along the other slot an edge ends: what breaks ties between ports of one box. */
function spread(link, downwards) {
  const slot = downwards ? link.upper : link.lower;
  return slot.width ? ((downwards ? link.from : link.to) / slot.width) * 0.9 - 0.45 : 0;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Give each slot its x: near its neighbours, the order and the widths kept. */
function place(rows) {
  for (const row of rows) {
    let x = 0;
    row.forEach((slot, i) => {
      slot.x = x;
      x += slot.width + (i + 1 < row.length ? gap(slot, row[i + 1]) : 0);
    });
    for (const slot of row) slot.x -= x / 2;
  }
  for (const ways of [...Array(4).fill([["up"], ["down"]]).flat(), ...Array(6).fill([["up", "down"], ["down", "up"]]).flat()]) {
    for (const row of ways[0] === "down" ? [...rows].reverse() : rows) settle(row, ways);
  }
  for (const row of rows) straighten(row);
}

/** Let lines fall straight from where they come, as far as their neighbours leave room. */
function straighten(row) {
  const fall = (i, sign) => {
    const slot = row[i];
    if (!slot.isBend || !slot.up.length) return;
    const [link] = slot.up;
    const goal = link.upper.x + link.from;
    if (Math.sign(goal - slot.x) !== sign) return;
    const [left, right] = [row[i - 1], row[i + 1]];
    const low = left ? left.x + left.width + BEND_GAP : -Infinity;
    const high = right ? right.x - BEND_GAP : Infinity;
    if (low < high) slot.x = Math.min(high, Math.max(low, goal));
  };
  for (let i = 0; i < row.length; i++) fall(i, -1);
  for (let i = row.length - 1; i >= 0; i--) fall(i, 1);
}

function gap(left, right) { return left.isBend || right.isBend ? BEND_GAP : GAP; }

/** Move a row's slots as near as can be, in the sense of least squares, to where they would be. */
function settle(row, ways) {
  const blocks = [];
  let shift = 0;
  row.forEach((slot, i) => {
    let [weight, sum] = [0, 0];
    for (const way of ways) {
      for (const link of slot[way]) {
        const other = way === "up" ? link.upper : link.lower;
        let [own, there] = way === "up" ? [link.to, link.from] : [link.from, link.to];
        // Boxes stand centred below each other: lined up by their ports, a long chain would drift.
        if (!slot.isBend && !other.isBend) [own, there] = [slot.width / 2, other.width / 2];
        const pull = slot.isBend !== other.isBend ? 1 : slot.isBend ? 4 : 16;
        weight += pull;
        sum += pull * (other.x + there - own);
      }
    }
    if (!weight) [weight, sum] = [0.01, 0.01 * slot.x];
    // Without the widths to the left of it, a slot may stand anywhere right of the one before.
    let block = { weight, sum: sum - weight * shift, slots: [[slot, shift]] };
    while (blocks.length && blocks.at(-1).sum / blocks.at(-1).weight > block.sum / block.weight) {
      const before = blocks.pop();
      block = {
        weight: before.weight + block.weight,
        sum: before.sum + block.sum,
        slots: before.slots.concat(block.slots),
      };
    }
    blocks.push(block);
    if (i + 1 < row.length) shift += slot.width + gap(slot, row[i + 1]);
  });
  for (const { weight, sum, slots } of blocks) {
    for (const [slot, left] of slots) slot.x = sum / weight + left;
  }
}

/** Move all to the right of 0, and give every row its y and its height. */
function measure(rows) {
  const slots = rows.flat();
  const left = Math.min(0, ...slots.map((slot) => slot.x));
  const start = slots.length ? Math.min(...slots.map((slot) => slot.x)) : left;
  let y = 0;
  let width = 0;
  rows.forEach((row, i) => {
    row.top = y;
    row.height = Math.max(0, ...row.map((slot) => slot.height));
    y += row.height + (i + 1 < rows.length ? ROW_GAP : 0);
    for (const slot of row) {
      slot.x -= start;
      slot.y = row.top + (row.height - slot.height) / 2;
      width = Math.max(width, slot.x + slot.width);
    }
  });
  return { width, height: y };
}
