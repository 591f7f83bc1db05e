/** The head view: the text twice, and a line from each token to where this head looks. */

import { element } from "../dom.js";
import { headColours } from "../colours.js";
import { fillSheet, keepAbove } from "../sheet.js";
import { asLeftOut, asPins, countsBetween, headsOf, pinsOf, settleHead, withoutOf } from "./head/choices.js";
import { caption } from "./head/caption.js";
import { Column } from "./head/column.js";
import { drawing } from "./head/drawing.js";
import { Lines, ROW } from "./head/lines.js";
import { portrait } from "./head/portrait.js";
import { invitation, reading } from "./head/reading.js";
import { Tools } from "./head/tools.js";
import { sidesOf } from "./head/units.js";
import { Weights } from "./head/weights.js";

/** A text of so many rows stands there whole, with no box to scroll in. */
const WHOLE = 100;

/** @typedef {import("../payload.js").Layer} Layer */
/** @typedef {import("../state.js").Placed} Placed */
/** @typedef {import("./head/lines.js").Pointed} Pointed */
/** @typedef {import("./head/units.js").Sides} Sides */

/**
 * @typedef {object} Shown what stands in the columns and between them
 * @property {Sides} sides
 * @property {{head: number, weights: Weights}[]} heads in the order of their colours
 * @property {string[]} colours
 * @property {Set<number>} gone the units that are left out as keys
 * @property {number} least
 * @property {boolean} among whether only some sentences count
 * @property {Pointed[]} pins
 */

class HeadView {
  #context;
  #title = element("div", { class: "head-title" });
  #numbers = element("div");
  #each = element("span");
  #where = element("span");
  #tools;
  #box = element("div", { class: "token-box" });
  #between = element("div", { class: "lines", "aria-hidden": "true" });
  #queries;
  #keys;
  #lines;
  /** @type {Layer | null} */
  #layer = null;
  /** @type {Shown | null} */
  #shown = null;
  #made = "";
  /** @type {Pointed | null} */
  #pointed = null;
  /** @type {number | null} the head whose lines alone are drawn */
  #single = null;
  #outside = new AbortController();

  /** @param {import("./index.js").Context} context */
  constructor(context) {
    this.#context = context;
    const { root, stage, margin, payload, state } = context;
    this.#tools = new Tools(payload, state, (head) => {
      this.#single = head;
      this.#show();
    });
    this.#queries = this.#column("query");
    this.#keys = this.#column("key");
    this.#lines = new Lines(this.#between, this.#box);
    this.#box.append(element("div", { class: "columns" }, this.#queries.root, this.#between, this.#keys.root));
    stage.append(
      this.#title, this.#numbers, this.#tools.root,
      element("div", { class: "sides", "aria-hidden": "true" },
        this.#each, this.#where, element("span", {}, "looks at")),
      this.#box);
    margin.setAttribute("aria-live", "polite");

    const { signal } = this.#outside;
    const follow = () => {
      this.#queries.follow();
      this.#keys.follow();
      this.#lines.follow();
    };
    this.#box.addEventListener("scroll", follow, { passive: true });
    root.getRootNode().addEventListener("keydown", (event) => {
      if (/** @type {KeyboardEvent} */ (event).key === "Escape") this.#context.state.go(asPins([]));
    }, { signal });
    const size = new ResizeObserver(() => {
      follow();
      this.#lines.redraw();
    });
    size.observe(this.#box);
    signal.addEventListener("abort", () => size.disconnect());
  }

  /** @param {Placed} place @param {Layer} layer */
  update(place, layer) {
    const { payload } = this.#context;
    const { position, name, kind } = layer.entry;
    const before = this.#shown;
    const pinned = before?.pins.length;
    this.#single = null;
    this.#layer = layer;
    const shown = this.#shown = this.#showing(place, layer);
    const { sides, heads, least, colours } = shown;
    if (sides !== before?.sides) {
      const rows = Math.max(sides.keys.count, sides.offset + sides.queries.count);
      this.#box.style.setProperty("--rows", String(rows));
      this.#box.classList.toggle("whole", rows <= WHOLE);
      this.#queries.fill(sides.queries, sides.offset);
      this.#keys.fill(sides.keys, 0);
      this.#pointed = null;
    }
    const several = heads.length > 1;
    this.#title.replaceChildren(
      element("h2", {}, `Layer ${position}, ${place.all ? `all ${heads.length} heads` : `head ${place.head}`}`),
      element("p", {}, element("code", {}, name), kind === "cross" ? " cross-attention" : ""));
    this.#each.textContent = place.units === "words" && !sides.queries.areTokens ? "each word" : "each token";
    this.#where.textContent = `layer ${position} · ${place.all ? `all ${heads.length} heads` : several ? `${heads.length} heads` : `head ${place.head}`}`;
    this.#numbers.replaceChildren(...(place.all ? [] : [portrait(payload.contents.statistics, place.layer, place.head)]));
    this.#tools.update(place, layer, sides, {
      shown: heads.reduce((sum, { weights }) => sum + weights.count(least), 0),
      all: heads.reduce((sum, { weights }) => sum + weights.count(0), 0),
    }, colours);
    this.#show();
    const [first] = shown.pins;
    if (first && !pinned && !this.#pointed) this.#side(first).reveal(first.position);
    const last = shown.pins.at(-1);
    const held = last && this.#side(last).placeOf(last.position);
    if (held && asKey(before?.pins) !== asKey(shown.pins)) keepAbove(this.#context.margin, held, this.#box);
  }

  /** @param {Placed} place @param {Layer} layer @returns {Shown} */
  #showing(place, layer) {
    const inWords = place.units === "words";
    const kept = [place.layer, place.units, place.between, place.without].join(" ");
    const same = this.#shown && this.#made === kept ? this.#shown : null;
    this.#made = kept;
    const sides = same?.sides ?? this.#sides(layer, inWords);
    const { queries, keys } = sides;
    const counts = countsBetween(place.between, sides);
    const gone = new Set(withoutOf(place).map((token) => keys.at(token)));
    const heads = headsOf(place, layer.entry.heads).map((head) => {
      const known = same?.heads.find((one) => one.head === head);
      if (known) return known;
      const tokens = Weights.of(layer, head);
      const whole = queries.areTokens && keys.areTokens ? tokens : tokens.inWords(queries, keys);
      const units = gone.size ? whole.without(gone) : whole;
      return { head, weights: counts ? units.among(counts) : units };
    });
    const pins = pinsOf(place).map(({ side, position }) => ({
      side, position: (side === "query" ? queries : keys).at(position),
    }));
    const colours = headColours(this.#context.root, heads.length);
    return { sides, heads, colours, gone, least: (place.least ?? 0) / 100, among: counts !== null, pins };
  }

  /** @param {Layer} layer @param {boolean} inWords @returns {Sides} the same as long as the same text is shown so */
  #sides(layer, inWords) {
    const sides = sidesOf(this.#context.payload.contents, layer, inWords);
    const before = this.#shown?.sides;
    const same = before && before.offset === sides.offset && before.queries.texts.length === sides.queries.texts.length &&
      before.keys.texts === sides.keys.texts && before.queries.texts[0] === sides.queries.texts[0];
    return same ? before : sides;
  }

  unmount() {
    this.#outside.abort();
  }

  /** @returns {Promise<SVGElement>} */
  async picture() {
    const { payload: { contents }, state } = this.#context;
    const shown = /** @type {Shown} */ (this.#shown);
    const layer = /** @type {Layer} */ (this.#layer);
    const heads = shown.heads.map(({ head }) => head);
    const [first, rows] = [Math.ceil(this.#box.scrollTop / ROW), Math.floor(this.#box.clientHeight / ROW)];
    return drawing(this.#context.root, {
      title: contents.title,
      where: `Layer ${layer.entry.position}, ${state.place.all ? `all ${heads.length} heads`
        : `head${heads.length > 1 ? "s" : ""} ${heads.join(", ")}`}`,
      caption: caption(contents, layer.entry, state.place, shown.sides, first, rows),
      sides: shown.sides, heads, hues: shown.colours, lines: this.#lines.inSight(), first, rows,
      pointed: this.#at(),
    });
  }

  /** @param {"query" | "key"} side */
  #column(side) {
    return new Column(side, this.#box, {
      point: (position) => {
        this.#pointed = position === null ? null : { side, position };
        if (!this.#shown?.pins.length) this.#show();
      },
      pin: (position) => this.#pin({ side, position }),
    });
  }

  /** @param {Pointed} pointed */
  #side({ side }) {
    return side === "query" ? this.#queries : this.#keys;
  }

  /** @param {Pointed} unit pinned, or let go of if it was */
  #pin({ side, position }) {
    const { sides } = /** @type {Shown} */ (this.#shown);
    const units = side === "query" ? sides.queries : sides.keys;
    const before = pinsOf(this.#context.state.place);
    const others = before.filter((pin) => pin.side !== side || units.at(pin.position) !== position);
    const added = others.length < before.length ? [] : [{ side, position: units.starts[position] }];
    this.#context.state.go(asPins([...others, ...added]));
  }

  /** Tokens that are pinned stay, wherever one points. @returns {Pointed[]} */
  #at() {
    const { pins } = /** @type {Shown} */ (this.#shown);
    return pins.length ? pins : this.#pointed ? [this.#pointed] : [];
  }

  #show() {
    const shown = this.#shown;
    if (!shown) return;
    const at = this.#at();
    const pinned = shown.pins.length > 0;
    this.#mark("query", at, pinned);
    this.#mark("key", at, pinned);
    const drawn = shown.heads.map((one, n) => ({ ...one, colour: shown.colours[n] }))
      .filter(({ head }) => this.#single === null || head === this.#single);
    this.#lines.show({
      weights: drawn.map(({ weights }) => weights), colours: drawn.map(({ colour }) => colour),
      offset: shown.sides.offset, least: shown.least, pointed: at,
    });
    const { margin, payload, state } = this.#context;
    const read = {
      ...shown, pinned, live: payload.contents.live,
      reveal: (/** @type {Pointed} */ other) => this.#side(other).reveal(other.position),
      leaveOut: (/** @type {number} */ key) => state.go(asLeftOut(state.place, shown.sides.keys.starts[key])),
    };
    const letGo = () => {
      this.#pointed = null;
      state.go(asPins([]));
    };
    const hint = pinned ? "Held. Click it again to let go, or press Esc to let go of all." : "Click to hold.";
    fillSheet(margin, at.length ? [...at.map((token) => element("div", {}, ...reading(token, read))),
      element("p", { class: "hint held-hint" }, hint)] : invitation(), at.length > 0, pinned ? letGo : null);
  }

  /** @param {"query" | "key"} side @param {Pointed[]} at @param {boolean} pinned */
  #mark(side, at, pinned) {
    const { heads, colours, gone } = /** @type {Shown} */ (this.#shown);
    /** @type {Map<number, number[]>} */
    const weights = new Map();
    for (const token of at.filter((one) => one.side !== side)) {
      heads.forEach((head, n) => {
        for (const { position, weight } of head.weights.entries(token)) {
          const all = weights.get(position) ?? new Array(heads.length).fill(NaN);
          all[n] = Math.max(all[n] || 0, weight); // of several that look there, the most
          weights.set(position, all);
        }
      });
    }
    const pointed = new Set(at.filter((one) => one.side === side).map(({ position }) => position));
    this.#side({ side, position: 0 }).mark(weights, colours, pointed, pinned, side === "key" ? gone : new Set());
  }
}

/** @param {Pointed[]} [pins] @returns {string} the same for the same pins */
const asKey = (pins = []) => pins.map(({ side, position }) => side + position).join(" ");

/** @type {import("./index.js").View} */
export const headView = {
  title: "Head",
  ofOneHead: true,
  leavesOut: true,
  mount: (context) => new HeadView(context),
  settle: settleHead,
};
