/** The head view: the text twice, and a line from each token to where this head looks. */

import { element } from "../dom.js";
import { Column } from "./column.js";
import { Lines } from "./lines.js";
import { portrait } from "./portrait.js";
import { invitation, reading } from "./reading.js";

/** @typedef {import("../payload.js").Layer} Layer */
/** @typedef {import("../state.js").Place} Place */
/** @typedef {import("./lines.js").Pointed} Pointed */

class HeadView {
  #context;
  #title = element("div", { class: "head-title" });
  #numbers = element("div");
  #where = element("span");
  #queries;
  #keys;
  #canvas = element("canvas", { "aria-hidden": "true" });
  #lines = new Lines(this.#canvas);
  /** @type {Layer | null} */
  #layer = null;
  #head = 0;
  /** @type {Pointed | null} */
  #held = null;
  /** @type {Pointed | null} */
  #pointed = null;
  #outside = new AbortController();

  /** @param {import("./index.js").Context} context */
  constructor(context) {
    this.#context = context;
    this.#queries = this.#column("query");
    this.#keys = this.#column("key");
    context.stage.append(
      this.#title,
      this.#numbers,
      element("div", { class: "sides", "aria-hidden": "true" },
        element("span", {}, "each token"), this.#where, element("span", {}, "looks at")),
      element("div", { class: "columns" },
        this.#queries.root, element("div", { class: "lines" }, this.#canvas), this.#keys.root));
    context.margin.setAttribute("aria-live", "polite");

    const { signal } = this.#outside;
    const redraw = () => this.#lines.redraw();
    window.addEventListener("scroll", redraw, { signal, passive: true });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#hold(null);
    }, { signal });
    const size = new ResizeObserver(redraw);
    size.observe(this.#canvas);
    signal.addEventListener("abort", () => size.disconnect());
  }

  /** @param {Place} place @param {Layer} layer */
  update(place, layer) {
    const { payload } = this.#context;
    const { position, name, kind } = layer.entry;
    if (layer.queries !== this.#layer?.queries || layer.keys !== this.#layer.keys) {
      this.#queries.fill(layer.queries, layer.offset);
      this.#keys.fill(layer.keys, 0);
      this.#pointed = null;
    }
    this.#layer = layer;
    this.#head = place.head;
    const arrived = this.#held === null;
    this.#held = place.query !== null ? { side: "query", position: place.query }
      : place.key !== null ? { side: "key", position: place.key } : null;
    this.#title.replaceChildren(
      element("h2", {}, `Layer ${position}, head ${place.head}`),
      element("p", {}, element("code", {}, name), kind === "cross" ? " cross-attention" : ""));
    this.#where.textContent = `layer ${position} · head ${place.head}`;
    this.#numbers.replaceChildren(portrait(payload.contents.statistics, place.layer, place.head));
    this.#show();
    if (arrived && this.#held && !this.#pointed) this.#side(this.#held).reveal(this.#held.position);
  }

  unmount() {
    this.#outside.abort();
  }

  /** @param {"query" | "key"} side */
  #column(side) {
    return new Column(side, {
      point: (position) => {
        this.#pointed = position === null ? null : { side, position };
        this.#show();
      },
      hold: (position) => {
        const again = this.#held?.side === side && this.#held.position === position;
        this.#hold(again ? null : { side, position });
      },
    });
  }

  /** @param {Pointed} pointed */
  #side({ side }) {
    return side === "query" ? this.#queries : this.#keys;
  }

  /** @param {Pointed | null} token */
  #hold(token) {
    this.#context.state.go({
      query: token?.side === "query" ? token.position : null,
      key: token?.side === "key" ? token.position : null,
    });
  }

  /** A token that is held stays, wherever one points. */
  #show() {
    const layer = this.#layer;
    if (!layer) return;
    const at = this.#held ?? this.#pointed;
    const { margin } = this.#context;
    const position = at?.position ?? 0;
    const looked = at?.side === "query" ? layer.row(this.#head, position) : [];
    const looking = at?.side === "key" ? layer.column(this.#head, position) : [];
    this.#keys.mark(looked, at?.side === "key" ? position : null, Boolean(this.#held));
    this.#queries.mark(looking, at?.side === "query" ? position : null, Boolean(this.#held));
    this.#lines.show(layer, this.#head, at);
    margin.classList.toggle("filled", at !== null);
    margin.replaceChildren(...(at ? reading(layer, this.#head, at, Boolean(this.#held), (other) =>
      this.#side(other).reveal(other.position)) : invitation()));
  }
}

/** @type {import("./index.js").View} */
export const headView = { title: "Head", ofOneHead: true, mount: (context) => new HeadView(context) };
