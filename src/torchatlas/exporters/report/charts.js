// The plots. plotly.js lies compressed in the page and is unpacked when the first one is drawn.

let plotlyReady = null;

/** Unpack plotly.js, once. */
function plotly() {
  plotlyReady ??= (async () => {
    if (typeof DecompressionStream === "undefined") {
      throw new Error("This browser is too old to unpack the plots.");
    }
    const packed = Uint8Array.from(atob(byId("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const source = await new Response(stream).text();
    // plotly would add the styles of its maps and tool bars, which are not in use, and which the
    // policy forbids: it leaves them out where it finds their elements.
    for (const [, id] of source.matchAll(/getElementById\("([0-9a-f]{64})"\)/g)) {
      document.head.append(make("meta", { id }));
    }
    document.head.append(make("script", { textContent: source }));
    for (const note of document.querySelectorAll(".wait")) note.remove();
    if (!window.Plotly) throw new Error("The plots could not be unpacked.");
    return window.Plotly;
  })();
  return plotlyReady;
}

/** The value of a variable of the style sheet, which depends on light and dark. */
const style = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

/** The text of a model as plotly shows it: what it would read as markup is taken out of use. */
function safe(text) {
  const marks = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
  return String(text).replace(/[&<>]/g, (mark) => marks[mark]).replaceAll("%{", "% {");
}

const cutText = (text) => (text.length > 60 ? `…${text.slice(-59)}` : text);

/** What all plots look like. */
function theme() {
  const [ink, faint, line] = [style("--ink"), style("--faint"), style("--border")];
  const axis = () => ({
    gridcolor: line, zerolinecolor: line, linecolor: line,
    tickfont: { color: faint }, title: { font: { color: faint, size: 12 } },
  });
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: FONT, size: 12, color: ink },
    margin: { l: 64, r: 24, t: 16, b: 48 },
    hoverlabel: {
      bgcolor: style("--surface"), bordercolor: line, align: "left",
      font: { family: FONT, color: ink, size: 12 },
    },
    xaxis: axis(), yaxis: axis(), legend: { orientation: "h", y: 1.08, font: { color: ink } },
  };
}

/** Draw a plot in an element; `clicked` gets the points that somebody clicks on. */
async function plot(element, { traces, layout, height }, event, clicked) {
  const Plotly = await plotly();
  const size = { height: height ?? element.clientHeight, width: element.clientWidth };
  const config = { displayModeBar: false, displaylogo: false, responsive: false };
  await Plotly.react(element, traces, { ...layout, ...size }, config);
  if (element.wired) return;
  element.wired = true;
  element.on(event, ({ points }) => clicked(points[0]));
}

/** Say in place of a plot why there is none. */
function absent(element, text) {
  element.replaceChildren(make("p", { className: "absent", textContent: text }));
}

class Charts {
  constructor(model, picture) {
    this.roofline = new Roofline(model, picture);
    this.charts = {
      modules: { element: byId("icicle"), chart: new Icicle(model, picture) },
      memory: { element: byId("memory-chart"), chart: new MemoryPlot(model, picture) },
      roofline: { element: byId("roofline-chart"), chart: this.roofline },
    };
    byId("area").addEventListener("change", () => this.draw("modules"));
    dark.addEventListener("change", () => this.draw(this.tab));
    addEventListener("resize", () => this.draw(this.tab));
  }

  async draw(tab) {
    this.tab = tab;
    if (!this.charts[tab]) return;
    const { element, chart } = this.charts[tab];
    if (!element.childNodes.length && !window.Plotly) {
      element.append(make("p", { className: "absent wait", textContent: "Unpacking the plots …" }));
    }
    try {
      await chart.draw(element);
    } catch (error) {
      console.error(error);
      absent(element, error.message);
    }
  }
}

// -- colours ---------------------------------------------------------------------------------

const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

/** plotly reads no color-mix() results such as color(srgb …): paint the colour and look at it. */
function solid(colour) {
  brush.fillStyle = colour;
  brush.fillRect(0, 0, 1, 1);
  const [red, green, blue] = brush.getImageData(0, 0, 1, 1).data;
  return `rgb(${red},${green},${blue})`;
}

/** The colour of a family as a plot needs it: computed, not a variable. */
function familyColour(family, key = "background-color") {
  const probe = make("i", { className: `dot f-${family}`, hidden: true });
  document.body.append(probe);
  const colour = getComputedStyle(probe).getPropertyValue(key);
  probe.remove();
  return solid(colour);
}
