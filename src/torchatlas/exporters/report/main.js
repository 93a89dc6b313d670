// Brings the parts of the page together.

const model = new Model(JSON.parse(byId("data").textContent));
for (const element of document.querySelectorAll(".needs-script, #tabs")) element.hidden = false;
document.body.classList.add("script");

const picture = new Picture(model, byId("picture"));
const inspector = new Inspector(byId("inspector"), model, picture);
const search = new Search(model, picture);
const charts = new Charts(model, picture);
let table = null;

const TABS = ["graph", "modules", "memory", "roofline", "nodes"];

function openTab(name) {
  for (const tab of TABS) {
    const chosen = tab === name;
    byId(`tab-${tab}`).setAttribute("aria-selected", String(chosen));
    byId(`tab-${tab}`).tabIndex = chosen ? 0 : -1;
    byId(tab).hidden = !chosen;
  }
  if (name === "graph") picture.resize();
  if (name === "nodes") {
    table ??= new NodeTable(model, picture);
    table.refresh();
  }
  charts.draw(name);
}

function wireTabs() {
  if (!charts.roofline.present) byId("tab-roofline").hidden = true;
  byId("tab-roofline").textContent = charts.roofline.label;
  for (const tab of TABS) byId(`tab-${tab}`).onclick = () => openTab(tab);
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const shown = TABS.filter((tab) => !byId(`tab-${tab}`).hidden);
    const at = shown.findIndex((tab) => byId(`tab-${tab}`).getAttribute("aria-selected") === "true");
    const next = shown[(at + step + shown.length) % shown.length];
    openTab(next);
    byId(`tab-${next}`).focus();
  });
}

function wireTools() {
  const on = (id, action) => { byId(id).onclick = action; };
  on("zoom-in", () => picture.zoom(1.3));
  on("zoom-out", () => picture.zoom(1 / 1.3));
  on("fit", () => picture.fit());
  on("expand", () => picture.expandAll());
  on("collapse", () => picture.collapseAll());
  byId("weights").parentElement.hidden = !model.kinds.some((kind) => WEIGHTS.has(kind));
  byId("weights").onchange = (event) => picture.setWeights(event.target.checked);
  const keys = {
    family: "kind of op", flops: "FLOPs", bytes: "bytes moved", params: "parameters",
    latency_us: "latency", roofline_us: "roofline time", device: "device",
  };
  const usable = Object.entries(keys).filter(([key]) => {
    if (key === "family") return true;
    return key === "device" ? picture.devices().length : model.isNumeric(key);
  });
  byId("colour").replaceChildren(...usable.map(([value, textContent]) => make("option", { value, textContent })));
  byId("colour").onchange = (event) => picture.setColour(event.target.value);
  picture.onColour.listen(drawLegend);
  drawLegend();
}

function drawLegend() {
  const entry = (look, text) => make("span", {}, make("i", { className: `dot ${look}` }), text);
  let entries;
  if (picture.colour === "family") {
    const used = new Set(model.data.nodes.family);
    const names = { op: "other op", input: "input, output" };
    const hidden = new Set(["module", "output", "parameter", "buffer", "constant"]);
    const shown = model.data.families.filter((name, i) => used.has(i) && !hidden.has(name));
    entries = shown.map((name) => entry(`f-${name}`, names[name] ?? name));
    entries.unshift(entry("f-module square", "module"));
  } else if (picture.colour === "device") {
    entries = picture.devices().map((device, i) => entry(`device-${i % 8}`, device));
  } else {
    const scale = make("i", { className: "scale" });
    scale.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map(heatColour).join(", ")})`;
    entries = [make("span", {}, "0", scale, number(picture.largest, model.unit(picture.colour)))];
  }
  byId("legend").replaceChildren(...entries);
}

function wireKeys() {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      byId("search").focus();
      byId("search").select();
    } else if (event.key === "Escape") {
      if (typing) typing.blur();
      else picture.choose(null);
    }
  });
}

/** The chosen node stands in the address, so that a link can lead to it. */
function wireAddress() {
  const go = () => {
    let id;
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const node = model.position.get(id);
    if (node !== undefined && !(picture.chosen && picture.chosen.node === node)) picture.chooseNode(node);
  };
  addEventListener("hashchange", go);
  go();
  picture.onChoose.listen((item) => {
    const name = item && !item.isGroup ? encodeURIComponent(model.id(item.node)) : "";
    history.replaceState(null, "", `#${name}`);
  });
}

picture.onChoose.listen((item) => {
  inspector.show(item);
  if (table && !byId("nodes").hidden) table.refresh();
});
wireTabs();
wireTools();
wireKeys();
new ResizeObserver(() => picture.resize()).observe(byId("picture"));
openTab("graph");
wireAddress();
document.body.dataset.ready = "yes";
