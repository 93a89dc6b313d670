// Small things that every part of the page uses. Text from a model only ever becomes text.

const byId = (id) => document.getElementById(id);

/** Make an element: `properties` are set as such, `data-…`, `aria-…` and role as attributes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Make an SVG element with attributes. */
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const PREFIXES = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** A count with a prefix and three digits, as `torchatlas.text.number`; unknown is a "?". */
function number(value, unit = "") {
  if (value === null || value === undefined) return "?";
  if (typeof value !== "number") return `${value} ${unit}`.trim();
  if (unit === "µs" && value >= 999.5) return number(value / 1e3, "ms");
  if (unit === "ms" && value >= 999.5) return number(value / 1e3, "s");
  const size = PREFIXES.findIndex(([step]) => Math.abs(value) >= step * 0.9995);
  if (size < 0) return `${Number.isInteger(value) ? value : Number(value.toPrecision(3))} ${unit}`.trim();
  const [step, prefix] = PREFIXES[size];
  return `${Number((value / step).toPrecision(3))} ${prefix}${unit}`;
}

const grouped = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 3 });

const percent = (part) => `${(part * 100).toFixed(part < 0.0995 ? 1 : 0)} %`;

/** The last part of a dotted name. */
const lastPart = (name) => name.slice(name.lastIndexOf(".") + 1) || name;

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

const pen = document.createElement("canvas").getContext("2d");
const FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const widths = new Map();

/** The width of `text` in pixels at a size and a weight. */
function textWidth(text, size, weight = 400) {
  const key = `${size} ${weight} ${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    pen.font = `${weight} ${size}px ${FONT}`;
    width = pen.measureText(text).width;
    if (widths.size > 20000) widths.clear();
    widths.set(key, width);
  }
  return width;
}

/** `text`, cut in the middle of nowhere so that it takes at most `room` pixels. */
function fitText(text, room, size, weight) {
  if (text.length > 120) text = `${text.slice(0, 119)}…`;
  if (textWidth(text, size, weight) <= room) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (textWidth(`${text.slice(0, middle)}…`, size, weight) <= room) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low)}…`;
}

/** Who wants to know of a change: the parts of the page speak to each other through this. */
class Signal {
  #listeners = [];
  listen(listener) { this.#listeners.push(listener); }
  send(...values) { for (const listener of this.#listeners) listener(...values); }
}
