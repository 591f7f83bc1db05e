/** A column of tokens: each can be pointed at, pinned, walked to with the keyboard, and bear a weight of each head. */

import { element, hovers, target } from "../../dom.js";
import { percent } from "../../numbers.js";
import { spelled, tokenText } from "../../tokens.js";
import { ROW } from "./lines.js";

const MARGIN = 12; // rows above and below what is in sight

/**
 * @typedef {object} Heard what a column tells
 * @property {(position: number | null) => void} point
 * @property {(position: number) => void} pin
 */

/** How many columns there have been. */
let columns = 0;

/** Only the rows in sight are there: a text may have thousands. */
export class Column {
  /** @type {Map<number, HTMLElement>} those that are there */
  #rows = new Map();
  /** @type {string[]} */
  #texts = [];
  /** @type {ArrayLike<number>} */
  #numbers = [];
  #offset = 0;
  #first = 0;
  #last = -1;
  /** Where the keyboard is. */
  #active = 0;
  /** @type {Map<number, number[]>} the weights of each head, NaN where it lists none */
  #weights = new Map();
  /** @type {string[]} */
  #colours = [];
  /** @type {Set<number>} units that are left out */
  #gone = new Set();
  /** @type {Set<number>} */
  #pointed = new Set();
  #pinned = false;
  #box;
  #heard;
  /** Of two columns of one side, in two runs or two cells, the rows have different names. */
  #name;

  /**
   * @param {"query" | "key"} side
   * @param {HTMLElement} box in which it scrolls
   * @param {Heard} heard
   */
  constructor(side, box, heard) {
    this.#name = `${side}-${++columns}`;
    this.#box = box;
    this.#heard = heard;
    const label = side === "query" ? "Queries, the tokens that look" : "Keys, the tokens looked at";
    this.root = element("div", {
      class: `column ${side}`, role: "listbox", tabindex: 0, "aria-label": label, "aria-multiselectable": "true",
    });
    /** @param {Event} event */
    const position = (event) => {
      const row = target(event, "[data-position]");
      return row ? Number(row.dataset.position) : null;
    };
    this.root.addEventListener("pointerover", (event) => {
      if (hovers(event)) heard.point(position(event));
    });
    this.root.addEventListener("pointerleave", () => heard.point(null));
    this.root.addEventListener("pointerdown", (event) => this.#activate(position(event) ?? this.#active));
    this.root.addEventListener("focus", (event) => {
      if (hovers(event)) heard.point(this.#active);
    });
    this.root.addEventListener("blur", () => heard.point(null));
    this.root.addEventListener("click", (event) => {
      const clicked = position(event);
      if (clicked !== null) heard.pin(clicked);
    });
    this.root.addEventListener("keydown", (event) => this.#walk(event));
  }

  /**
   * @param {import("./units.js").Units} units
   * @param {number} offset rows left empty above
   */
  fill({ texts, numbers }, offset) {
    this.#texts = texts;
    this.#numbers = numbers;
    this.#offset = offset;
    this.#weights = new Map();
    this.#pointed = new Set();
    this.#rows.clear();
    this.root.replaceChildren();
    this.#active = 0;
    this.follow();
    this.#activate(0);
  }

  /** Puts the rows there that are in sight by now. */
  follow() {
    const top = Math.floor(this.#box.scrollTop / ROW) - this.#offset;
    this.#first = Math.max(0, top - MARGIN);
    this.#last = Math.min(this.#texts.length - 1, top + Math.ceil(this.#box.clientHeight / ROW) + MARGIN);
    for (const [position, row] of this.#rows) {
      if (this.#isThere(position)) continue;
      row.remove();
      this.#rows.delete(position);
    }
    // In the order of the text, which is how a screen reader goes through them.
    let after = this.root.firstElementChild;
    for (let position = this.#first; position <= this.#last; position++) {
      while (after instanceof HTMLElement && Number(after.dataset.position) < position) after = after.nextElementSibling;
      if (this.#rows.has(position)) continue;
      this.root.insertBefore(this.#row(position), after);
    }
    if (!this.#rows.has(this.#active) && this.#active < this.#texts.length) {
      const row = this.#row(this.#active);
      if (this.#active < this.#first) this.root.prepend(row);
      else this.root.append(row);
    }
  }

  /** @param {number} position */
  #isThere(position) {
    return (position >= this.#first && position <= this.#last) || position === this.#active;
  }

  /** @param {number} position */
  #row(position) {
    const number = this.#numbers[position];
    const text = this.#texts[position];
    const row = element("div", {
      role: "option", id: `${this.#name}-${position}`, "aria-label": `${number} ${spelled(text)}`,
      "aria-setsize": this.#texts.length, "aria-posinset": position + 1, "data-position": position,
    }, element("span", { class: "number" }, String(number)), " ", tokenText(text));
    row.style.top = `${(position + this.#offset) * ROW}px`;
    this.#rows.set(position, row);
    this.#dress(position, row);
    return row;
  }

  /**
   * @param {Map<number, number[]>} weights those of each head, NaN where it lists none; all others bear none
   * @param {string[]} colours of the heads
   * @param {Set<number>} pointed those whose weights these are, if they are in this column
   * @param {boolean} pinned
   * @param {Set<number>} gone those that are left out
   */
  mark(weights, colours, pointed, pinned, gone) {
    this.#weights = weights;
    this.#colours = colours;
    this.#gone = gone;
    this.#pointed = pointed;
    this.#pinned = pinned;
    for (const [position, row] of this.#rows) this.#dress(position, row);
  }

  /** @param {number} position @param {HTMLElement} row */
  #dress(position, row) {
    const weights = this.#weights.get(position);
    row.classList.toggle("pointed", this.#pointed.has(position));
    row.classList.toggle("gone", this.#gone.has(position));
    row.classList.toggle("active", position === this.#active);
    row.setAttribute("aria-selected", String(this.#pinned && this.#pointed.has(position)));
    row.style.background = weights ? stripes(weights, this.#colours) : "";
    if (weights && this.#colours.length === 1) row.dataset.weight = percent(weights[0]);
    else delete row.dataset.weight;
  }

  /** @param {number} position brought to the middle of what is to be seen of the box */
  reveal(position) {
    this.#activate(position);
    const seen = () => {
      const { top, bottom } = this.#box.getBoundingClientRect();
      return [Math.max(0, -top), Math.min(bottom, window.innerHeight) - top];
    };
    let [from, to] = seen();
    if (to - from < 8 * ROW) {
      this.#box.scrollIntoView({ block: "nearest" });
      [from, to] = seen();
    }
    this.#box.scrollTop = (position + this.#offset + 0.5) * ROW - (from + to) / 2;
    this.#intoWindow("center");
  }

  /** Of a text that stands there whole the window is what scrolls. @param {"center" | "nearest"} block */
  #intoWindow(block) {
    const row = this.#rows.get(this.#active);
    const { top = 0, bottom = 0 } = row?.getBoundingClientRect() ?? {};
    if (top < 0 || bottom > window.innerHeight) row?.scrollIntoView({ block });
  }

  /** @param {number} position @returns {DOMRect | null} where it is in the window, if it is there */
  placeOf(position) {
    return this.#rows.get(position)?.getBoundingClientRect() ?? null;
  }

  /** @param {number} position */
  #activate(position) {
    const before = this.#active;
    this.#active = position;
    this.follow();
    for (const changed of [before, position]) {
      const row = this.#rows.get(changed);
      if (row) this.#dress(changed, row);
    }
    if (this.#texts.length) this.root.setAttribute("aria-activedescendant", `${this.#name}-${position}`);
    else this.root.removeAttribute("aria-activedescendant");
  }

  /** @param {KeyboardEvent} event */
  #walk(event) {
    if (event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.#texts.length - 1;
    const page = Math.max(1, Math.floor(this.#box.clientHeight / ROW) - 3);
    const active = this.#active;
    const goal = {
      ArrowUp: active - 1, ArrowDown: active + 1, PageUp: active - page, PageDown: active + page, Home: 0, End: last,
    }[event.key];
    if (event.key === "Enter" || event.key === " ") this.#heard.pin(active);
    else if (goal === undefined) return;
    else {
      this.#activate(Math.min(Math.max(0, goal), last));
      this.#keepInSight();
      this.#heard.point(this.#active);
    }
    event.preventDefault();
  }

  #keepInSight() {
    const top = (this.#active + this.#offset) * ROW;
    const { scrollTop, clientHeight } = this.#box;
    if (top < scrollTop + ROW) this.#box.scrollTop = top - ROW;
    else if (top + 2 * ROW > scrollTop + clientHeight) this.#box.scrollTop = top + 2 * ROW - clientHeight;
    this.#intoWindow("nearest");
  }
}

/** @param {number[]} weights @param {string[]} colours @returns {string} a background: a stripe a head, in its colour */
function stripes(weights, colours) {
  const tint = (/** @type {number} */ head) =>
    `color-mix(in oklab, transparent, ${colours[head]} ${(62 * (weights[head] || 0)).toFixed(1)}%)`;
  const heads = colours.length;
  if (heads === 1) return tint(0);
  const stops = weights.map((_, head) => `${tint(head)} ${(100 * head) / heads}% ${(100 * (head + 1)) / heads}%`);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
