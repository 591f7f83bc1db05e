/** The patches view: the picture that a vision model read, twice: point at a patch in one, see in the other where it looks. */

// Where tokens lie in some other space, frames along a sound or nodes of a graph, a view like this one draws them there:
// it needs `contents` to say where each token lies, as `image` does here, and `Tiles.row` for the weights.

import { colours } from "../colours.js";
import { element, hovers, svg, target } from "../dom.js";
import { percent } from "../numbers.js";
import { fillSheet, keepAbove } from "../sheet.js";
import { Tiles } from "./map/tiles.js";

/** @typedef {import("../payload.js").Layer} Layer */

/** How much of the picture is veiled where nothing is looked at. */
const PATCH_VEIL = 0.9;
/** How many of the heaviest are named. */
const PATCHES_NAMED = 8;

class PatchesView {
  #context;
  #image;
  #title = element("div", { class: "head-title" });
  #sides = element("div", { class: "patches" });
  #share = element("p", { class: "map-note" });
  #tiles;
  /** @type {HTMLElement[]} of each token, where one chooses */
  #choices;
  /** @type {HTMLElement[]} of each token, where its weight is shown */
  #shown;
  /** @type {Layer | null} */
  #layer = null;
  #head = 0;
  /** @type {number | null} */
  #held = null;
  /** @type {number | null} */
  #pointed = null;
  /** @type {Float32Array} */
  #weights = new Float32Array();

  /** @param {import("./index.js").Context} context */
  constructor(context) {
    this.#context = context;
    this.#image = /** @type {NonNullable<typeof context.payload.contents.image>} */ (context.payload.contents.image);
    this.#tiles = new Tiles(context.payload, () => {});
    const { first, rows, columns } = this.#image;
    const count = first + rows * columns;
    const tokens = Array.from({ length: count }, (_, token) => token);
    this.#choices = tokens.map((token) => element("div", {
      role: "gridcell", tabindex: -1, "data-token": token, "aria-label": this.#name(token), title: this.#name(token),
    }, token < first ? this.#name(token) : ""));
    this.#shown = tokens.map((token) => element("div", { "data-token": token }));
    const grid = this.#side("The patch that looks", this.#choices, true);
    this.#sides.append(grid, this.#side("Where it looks", this.#shown, false));
    context.stage.append(this.#title, this.#sides, this.#share);
    context.margin.setAttribute("aria-live", "polite");

    const at = (/** @type {Event} */ event) => {
      const token = target(event, "[data-token]");
      return token ? Number(token.dataset.token) : null;
    };
    for (const event of ["pointerover", "focusin"]) {
      grid.addEventListener(event, (event) => hovers(event) && this.#point(at(event)));
    }
    grid.addEventListener("pointerleave", () => this.#point(null));
    grid.addEventListener("click", (event) => this.#hold(at(event)));
    grid.addEventListener("keydown", (event) => this.#walk(event, at(event)));
  }

  /** @param {import("../state.js").Placed} place @param {Layer} layer */
  update(place, layer) {
    const { position, name } = layer.entry;
    this.#layer = layer;
    this.#head = place.head;
    this.#held = place.query;
    this.#tiles.show(place.layer, layer, place.head);
    this.#title.replaceChildren(element("h2", {}, `Layer ${position}, head ${place.head}`),
      element("p", {}, element("code", {}, name)));
    const fits = layer.keys.length === this.#choices.length && layer.queries.length === this.#choices.length;
    this.#sides.hidden = !fits;
    if (fits) this.#show();
    else {
      this.#share.textContent = "This attention reads something else than the picture. Choose another layer.";
      this.#context.margin.replaceChildren();
    }
  }

  unmount() {
    this.#layer = null;
  }

  /** @returns {Promise<SVGElement>} */
  async picture() {
    const { source, rows, columns, first } = this.#image;
    const { paper, ink, muted, hue } = colours(this.#context.root);
    const query = this.#query;
    const picture = /** @type {HTMLImageElement} */ (this.#sides.querySelector("img"));
    const [width, cap] = [360, 26];
    const height = width * picture.naturalHeight / picture.naturalWidth;
    const [wide, high] = [width / columns, height / rows];
    const heaviest = this.#heaviest();
    const veils = [...this.#weights.subarray(first)].map((weight, at) => svg("rect", {
      x: (at % columns) * wide, y: Math.floor(at / columns) * high, width: wide, height: high, fill: paper,
      "shape-rendering": "crispEdges", "fill-opacity": patchVeil(weight, heaviest),
      "data-token": at + first, "data-weight": weight.toFixed(6),
    }));
    const chosen = query < first ? [] : [svg("rect", {
      x: ((query - first) % columns) * wide, y: Math.floor((query - first) / columns) * high, width: wide, height: high,
      fill: "none", stroke: hue, "stroke-width": 2.5,
    })];
    const side = (/** @type {number} */ x, /** @type {string} */ title, /** @type {SVGElement[]} */ over) =>
      svg("g", { transform: `translate(${x} ${cap})` },
        svg("text", { y: -10, fill: ink, "font-size": 13 }, title),
        svg("image", { href: source, width, height, preserveAspectRatio: "none" }), ...over);
    return svg("svg", {
      xmlns: "http://www.w3.org/2000/svg", width: 2 * width + 20, height: height + cap + 24,
      viewBox: `0 0 ${2 * width + 20} ${height + cap + 24}`, "font-family": "Inter, Helvetica, Arial, sans-serif",
    },
    svg("rect", { width: "100%", height: "100%", fill: paper }),
    side(0, this.#name(query), chosen), side(width + 20, "where it looks", veils),
    svg("text", { x: 0, y: height + cap + 16, fill: muted, "font-size": 11 }, this.#share.textContent ?? ""));
  }

  /** @param {string} title @param {HTMLElement[]} tokens @param {boolean} choose */
  #side(title, tokens, choose) {
    const { source, rows, columns, first } = this.#image;
    /** @type {Record<string, string>} */
    const line = choose ? { role: "row" } : {};
    const lines = Array.from({ length: rows }, (_, row) =>
      element("div", line, ...tokens.slice(first + row * columns, first + (row + 1) * columns)));
    const cells = element("div", { class: "patches-cells" }, ...lines);
    cells.style.setProperty("--rows", String(rows));
    cells.style.setProperty("--columns", String(columns));
    const picture = element("div", { class: "patches-picture" }, element("img", { src: source, alt: "" }), cells);
    const special = first ? [element("div", { class: "patches-special", ...line },
      ...tokens.slice(0, first))] : [];
    return element("figure", { class: choose ? "patches-choose" : "patches-heat" },
      element("figcaption", {}, title),
      element("div", { role: choose ? "grid" : "img", "aria-label": title }, picture, ...special));
  }

  /** The token whose look is shown: without a wish the first, which mostly speaks for the whole, or the middle. */
  get #query() {
    const { first, rows, columns } = this.#image;
    const middle = Math.floor(rows / 2) * columns + Math.floor(columns / 2);
    return this.#held ?? this.#pointed ?? (first ? 0 : middle);
  }

  /** @param {number} token */
  #name(token) {
    const { first, columns } = this.#image;
    if (token < first) return token ? `special token ${token}` : "class token";
    return `patch ${Math.floor((token - first) / columns) + 1} down, ${((token - first) % columns) + 1} across`;
  }

  /** @param {number | null} token */
  #point(token) {
    if (token === this.#pointed) return;
    this.#pointed = token;
    if (this.#held === null) this.#show();
  }

  /** @param {number | null} token */
  #hold(token) {
    if (token !== null) this.#context.state.go({ query: token === this.#held ? null : token, key: null });
  }

  /** @param {KeyboardEvent} event @param {number | null} token */
  #walk(event, token) {
    const { first, columns } = this.#image;
    if (event.key === "Escape") this.#letGo();
    if (token === null || event.shiftKey) return;
    // The special tokens stand in one line below the picture.
    const up = token < first ? this.#choices.length - columns : token - columns;
    const steps = /** @type {Record<string, number>} */ ({
      ArrowLeft: token - 1, ArrowRight: token + 1, ArrowUp: up, ArrowDown: token + columns,
      Home: first, End: this.#choices.length - 1,
    });
    let next = steps[event.key];
    if (event.key === "Enter" || event.key === " ") this.#hold(token);
    else if (next === undefined) return;
    else {
      if (event.key === "ArrowDown" && (token < first || next >= this.#choices.length)) next = first ? 0 : token;
      if (event.key === "ArrowUp" && token >= first && next < first) next = token;
      this.#choices[Math.min(Math.max(0, next), this.#choices.length - 1)].focus();
    }
    event.preventDefault();
  }

  async #show() {
    const { margin } = this.#context;
    const [layer, head, query] = [this.#layer, this.#head, this.#query];
    const { first } = this.#image;
    const { weights, all } = await this.#tiles.row(query);
    if (!layer || layer !== this.#layer || head !== this.#head || query !== this.#query) return; // one has gone on
    this.#weights = weights;
    this.#choices.forEach((choice, token) => {
      choice.classList.toggle("pointed", token === query);
      choice.tabIndex = token === query ? 0 : -1;
      if (token === this.#held) choice.setAttribute("aria-selected", "true");
      else choice.removeAttribute("aria-selected");
    });
    const heaviest = this.#heaviest();
    this.#shown.forEach((cell, token) => {
      const weight = weights[token];
      cell.dataset.weight = weight.toFixed(6);
      cell.title = `${this.#name(token)}: ${percent(weight)}`;
      cell.classList.toggle("pointed", token === query);
      if (token < first) cell.textContent = `${this.#name(token)} ${percent(weight)}`;
      else cell.style.opacity = String(patchVeil(weight, heaviest));
    });
    const onPatches = Math.min(1, weights.subarray(first).reduce((sum, weight) => sum + weight, 0));
    this.#share.textContent = `Brightest is a patch of ${percent(heaviest)}. The patches together have `
      + `${percent(onPatches)} of the weight${all ? "." : " that this page lists: the heaviest keys alone. "
      + "A larger --budget has all."}`;
    this.#sides.dataset.query = String(query);
    const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, PATCHES_NAMED);
    fillSheet(margin, [
      element("h2", {}, this.#name(query), element("span", { class: "verb" }, " looks at")),
      element("ol", {}, ...order.filter((token) => weights[token] > 0).map((token) => {
        const button = element("button", { type: "button" }, this.#name(token), element("span", { class: "number" }),
          element("span", { class: "value" }, percent(weights[token])));
        button.style.setProperty("--value", weights[token].toFixed(4));
        button.addEventListener("click", () => this.#hold(token));
        return element("li", { "data-position": token, "data-weight": weights[token].toFixed(6) }, button);
      })),
      element("p", { class: this.#held === null ? "hint" : "hint held-hint" }, this.#held === null ? "Point at a patch; click to hold it."
        : "Held. Click it again, or press Esc, to let go."),
    ], this.#held !== null || this.#pointed !== null, this.#held === null ? null : () => this.#letGo());
    if (this.#held !== null) keepAbove(margin, this.#choices[this.#held].getBoundingClientRect(), this.#sides);
  }

  #letGo() {
    this.#pointed = null;
    this.#context.state.go({ query: null });
  }

  /** The heaviest patch's weight. */
  #heaviest() {
    return this.#weights.subarray(this.#image.first).reduce((most, weight) => Math.max(most, weight), 0);
  }
}

/** @param {number} weight @param {number} heaviest @returns {number} how much of the picture is hidden there */
function patchVeil(weight, heaviest) {
  return Number((PATCH_VEIL * (1 - (heaviest ? weight / heaviest : 0))).toFixed(3));
}

/** @type {import("./index.js").View} */
export const patchesView = {
  title: "Patches",
  fits: ({ contents }) => Boolean(contents.image),
  mount: (context) => new PatchesView(context),
};
