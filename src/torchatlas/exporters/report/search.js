// Finding: nodes by id, op, kind and module type, and modules by path and type.

const MOST_HITS = 60;

class Search {
  constructor(model, picture) {
    this.model = model;
    this.picture = picture;
    this.input = byId("search");
    this.list = byId("hits");
    this.hits = [];
    this.at = -1;
    this.#index();
    this.input.addEventListener("input", () => this.#find());
    this.input.addEventListener("focus", () => this.#find());
    this.input.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("pointerdown", (event) => {
      if (!event.target.closest(".find")) this.close();
    });
  }

  #index() {
    const { model } = this;
    this.entries = [];
    const seen = new Set();
    for (let node = 0; node < model.count; node++) {
      for (const { path, type } of model.modules(node)) {
        if (seen.has(path)) continue;
        seen.add(path);
        const text = `${path} ${path.replaceAll(".", "/")} ${lastPart(type)}`.toLowerCase();
        this.entries.push({ path, name: path, sub: type, text });
      }
    }
    for (let node = 0; node < model.count; node++) {
      const id = model.id(node);
      const what = model.get("op", node) || model.kinds[node];
      const type = lastPart(model.get("module_type", node) || "");
      this.entries.push({ node, name: id, sub: what, text: `${id} ${what} ${type}`.toLowerCase() });
    }
  }

  #find() {
    const words = this.input.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) { this.close(); return; }
    const whole = words.join(" ");
    const found = [];
    let count = 0;
    for (const entry of this.entries) {
      if (!words.every((word) => entry.text.includes(word))) continue;
      count++;
      const name = entry.name.toLowerCase();
      const rank = name === whole ? 0 : name.endsWith(whole) ? 1 : name.startsWith(whole) ? 2 : 3;
      if (found.length < 4 * MOST_HITS || rank < 2) found.push({ entry, rank });
    }
    found.sort((a, b) => a.rank - b.rank || a.entry.name.length - b.entry.name.length);
    this.hits = found.slice(0, MOST_HITS).map(({ entry }) => entry);
    this.#show(count);
  }

  #show(count) {
    const rows = this.hits.map((entry, i) => {
      const family = entry.node === undefined ? "f-module" : `f-${this.model.family(entry.node)}`;
      const row = make(
        "li", { role: "option", id: `hit-${i}`, "aria-selected": "false" },
        make("i", { className: `dot ${family}` }),
        make("span", { className: "hit-name", textContent: entry.name }),
        make("span", { className: "also", textContent: lastPart(entry.sub) }),
      );
      row.onclick = () => this.take(i);
      return row;
    });
    const more = count > rows.length ? `${grouped(count - rows.length)} more` : count ? "" : "Nothing has that name";
    if (more) rows.push(make("li", { className: "detail", role: "presentation", textContent: more }));
    this.list.replaceChildren(...rows);
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.#move(this.hits.length ? 0 : -1);
  }

  #move(at) {
    this.list.children[this.at]?.setAttribute("aria-selected", "false");
    this.at = at;
    const row = this.list.children[at];
    if (!row || at < 0) { this.input.removeAttribute("aria-activedescendant"); return; }
    row.setAttribute("aria-selected", "true");
    row.scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", row.id);
  }

  #key(event) {
    if (event.key === "ArrowDown") this.#move(Math.min(this.at + 1, this.hits.length - 1));
    else if (event.key === "ArrowUp") this.#move(Math.max(this.at - 1, 0));
    else if (event.key === "Enter" && this.at >= 0) this.take(this.at);
    else if (event.key === "Escape") { this.input.value = ""; this.close(); this.input.blur(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  take(i) {
    const { node, path } = this.hits[i];
    this.close();
    this.input.blur();
    openTab("graph");
    if (node !== undefined) this.picture.chooseNode(node);
    else {
      const item = this.picture.tree.module(path);
      if (item) this.picture.choose(item, { reveal: true });
    }
  }

  close() {
    this.list.hidden = true;
    this.at = -1;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}
