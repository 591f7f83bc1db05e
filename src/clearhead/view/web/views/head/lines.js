/** The lines of the head view: from each query to its keys, as strong as the weight, drawn where one looks. */

import { element } from "../../dom.js";

/** @typedef {{side: "query" | "key", position: number}} Pointed a token or word that is pointed at or pinned */
/** @typedef {import("./weights.js").Weights} Weights */
/** @typedef {{from: number, to: number, weight: number, head: number}} Line `from` and `to` are rows */

/**
 * @typedef {object} Seen what is drawn
 * @property {Weights[]} weights of each head
 * @property {string[]} colours of each head
 * @property {number} offset how many rows down the queries begin
 * @property {number} least the least weight that has a line
 * @property {Pointed[]} pointed their lines alone are drawn; all, if there are none
 */

export const ROW = 26; // px, as --row in style.css
const ROWS = 8; // rows
const FAINTEST = 0.004; // Below one step of a screen's colours.
const AT_ONCE = 200; // lines that fit into a picture's time
const LINES = 500; // lines of what is pointed at that one sheet shows; a sink has as many as the text has tokens

/**
 * Lines are drawn on sheets as high as three windows, which scroll by themselves: moving through a long text costs
 * no drawing but of what comes into sight. Those of eight queries share a sheet; those of what is pointed at have one.
 * @typedef {object} Sheet
 * @property {number} top in px
 * @property {number} height
 * @property {() => Line[]} lines
 */

export class Lines {
  #place;
  #box;
  /** @type {Seen | null} */
  #seen = null;
  /** @type {Line[] | null} of what is pointed at, heaviest first */
  #few = null;
  /** @type {Map<string, HTMLCanvasElement>} */
  #drawn = new Map();
  /** @type {HTMLCanvasElement[]} to be drawn on again; a new one is megabytes, slow to get and to clear away */
  #spare = [];
  #waiting = 0;

  /**
   * @param {HTMLElement} place as wide as the gap between the columns, as high as the text
   * @param {HTMLElement} box in which it scrolls
   */
  constructor(place, box) {
    this.#place = place;
    this.#box = box;
  }

  /** @param {Seen} seen */
  show(seen) {
    const before = this.#seen;
    const same = before && before.colours.join() === seen.colours.join() && before.offset === seen.offset && before.least === seen.least &&
      before.weights.length === seen.weights.length && before.weights.every((one, n) => one === seen.weights[n]);
    this.#seen = seen;
    this.#few = seen.pointed.length ? linesOf(seen) : null;
    this.#forget(same ? "few" : "");
    this.follow();
  }

  /** Draws all anew. */
  redraw() {
    this.#forget("");
    this.follow();
  }

  /** Draws what has come into sight before the next picture, so much at a time as a picture's time allows. */
  follow() {
    this.#waiting ||= requestAnimationFrame(() => {
      this.#waiting = 0;
      if (this.#step()) this.follow();
    });
  }

  /** @param {string} kind of the sheets */
  #forget(kind) {
    for (const [name, canvas] of this.#drawn) {
      if (name.startsWith(kind)) this.#drop(name, canvas);
    }
    delete this.#place.dataset.drawn;
  }

  /** @param {string} name @param {HTMLCanvasElement} canvas */
  #drop(name, canvas) {
    canvas.remove();
    this.#drawn.delete(name);
    this.#spare.push(canvas);
  }

  /** @returns {Line[]} those that are in sight, and not too faint */
  inSight() {
    if (!this.#seen) return [];
    const first = this.#box.scrollTop / ROW - 1;
    const last = first + this.#box.clientHeight / ROW + 1;
    const among = this.#few ?? band(this.#seen, Math.max(0, Math.floor(first)), Math.ceil(last));
    return among.filter(({ from, to }) => Math.max(from, to) > first && Math.min(from, to) < last).slice(0, 4 * LINES);
  }

  /** @returns {boolean} whether there is more to draw */
  #step() {
    const { clientHeight: tall } = this.#box;
    const width = this.#place.clientWidth;
    if (!this.#seen || !tall || !width) return false;
    const few = this.#few ? this.#fewSheet(tall, this.#few) : null;
    const bands = this.#bands(tall);
    for (const [name, canvas] of this.#drawn) {
      canvas.hidden = few !== null && !few.has(name); // the others come back when one points at nothing
      if (!bands.has(name) && !few?.has(name)) this.#drop(name, canvas);
    }
    const wanted = few ?? bands;
    let lines = 0;
    for (const [name, sheet] of wanted) {
      if (this.#drawn.has(name)) continue;
      if (lines > AT_ONCE) return true;
      lines += this.#draw(name, sheet, width);
    }
    const drawn = [...wanted.keys()].reduce((sum, name) => sum + Number(this.#drawn.get(name)?.dataset.lines), 0);
    this.#place.dataset.drawn = String(drawn);
    return false;
  }

  /** @param {number} tall @param {Line[]} few @returns {Map<string, Sheet>} that of what is pointed at */
  #fewSheet(tall, few) {
    const zone = Math.round(this.#box.scrollTop / tall);
    const [top, height] = [(zone - 1) * tall, 3 * tall];
    const near = (/** @type {Line} */ { from, to }) =>
      Math.max(from, to) * ROW > top && Math.min(from, to) * ROW < top + height;
    return new Map([[`few ${zone}`, { top, height, lines: () => few.filter(near).slice(0, LINES) }]]);
  }

  /** @param {number} tall @returns {Map<string, Sheet>} those of the queries in sight, the middle ones first */
  #bands(tall) {
    const seen = /** @type {Seen} */ (this.#seen);
    const { scrollTop } = this.#box;
    /** @type {Map<string, Sheet>} */
    const sheets = new Map();
    const rows = seen.offset + seen.weights[0].rests.length;
    const first = Math.max(0, Math.floor(scrollTop / ROW / ROWS) - 1);
    const last = Math.min(Math.ceil(rows / ROWS) - 1, Math.floor((scrollTop + tall) / ROW / ROWS) + 1);
    const middle = (first + last) / 2;
    const bands = Array.from({ length: Math.max(0, last - first + 1) }, (_, n) => first + n);
    for (const n of bands.sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle))) {
      sheets.set(`band ${n}`, {
        top: n * ROWS * ROW - tall, height: 2 * tall + ROWS * ROW, lines: () => band(seen, n * ROWS, (n + 1) * ROWS),
      });
    }
    return sheets;
  }

  /** @param {string} name @param {Sheet} sheet @param {number} width @returns {number} how many lines */
  #draw(name, { top, height, lines }, width) {
    const scale = window.devicePixelRatio;
    const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
    const canvas = this.#spare.pop() ?? element("canvas");
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    if (canvas.width !== size.width || canvas.height !== size.height) Object.assign(canvas, size);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width + 1, height + 1);
    canvas.hidden = false;
    canvas.style.top = `${top}px`;
    canvas.style.height = `${height}px`;
    pen.lineCap = "round";
    const drawn = lines();
    for (const { from, to, weight, head } of drawn) {
      const [start, end] = [from * ROW - top, to * ROW - top];
      const { opacity, thickness } = stroke(weight, this.#few !== null);
      pen.strokeStyle = /** @type {Seen} */ (this.#seen).colours[head];
      pen.globalAlpha = opacity;
      pen.lineWidth = thickness;
      pen.beginPath();
      pen.moveTo(0, start);
      pen.bezierCurveTo(width / 2, start, width / 2, end, width, end);
      pen.stroke();
    }
    canvas.dataset.lines = String(drawn.length);
    this.#place.append(canvas);
    this.#drawn.set(name, canvas);
    return drawn.length;
  }
}

/** @param {number} weight @param {boolean} alone with few others @returns {{opacity: number, thickness: number}} */
export function stroke(weight, alone) {
  const part = Math.min(1, weight);
  return alone ? { opacity: 0.25 + 0.75 * part, thickness: 1 + 3 * part }
    : { opacity: part, thickness: 0.75 + 1.25 * part };
}

/** @param {Seen} seen @param {number} first @param {number} last @returns {Line[]} of the queries of some rows */
function band({ weights, offset, least }, first, last) {
  /** @type {Line[]} */
  const lines = [];
  weights.forEach(({ starts, positions, weights: values, rests }, head) => {
    const from = Math.max(0, first - offset);
    const to = Math.min(rests.length, last - offset);
    for (let query = from; query < to; query++) {
      for (let at = starts[query]; at < starts[query + 1]; at++) {
        const weight = values[at];
        if (weight <= FAINTEST || weight < least) continue;
        lines.push({ from: query + offset + 0.5, to: positions[at] + 0.5, weight, head });
      }
    }
  });
  return lines;
}

/** @param {Seen} seen @returns {Line[]} of what is pointed at, heaviest first */
function linesOf({ weights, offset, least, pointed }) {
  return pointed
    .flatMap((token) => weights.flatMap((of, head) => of.entries(token).map(({ position, weight }) => {
      const [query, key] = token.side === "query" ? [token.position, position] : [position, token.position];
      return { from: query + offset + 0.5, to: key + 0.5, weight, head };
    })))
    .filter(({ weight }) => weight >= least)
    .sort((a, b) => b.weight - a.weight);
}
