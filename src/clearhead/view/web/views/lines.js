/** The lines of the head view: from each query to its keys, as strong as the weight, drawn where one looks. */

/** @typedef {{side: "query" | "key", position: number}} Pointed a token that is pointed at or held */

const ROW = 26; // px, as --row in style.css
const FAINTEST = 0.004; // Below one step of a screen's colours.

export class Lines {
  #canvas;
  /** @type {import("../payload.js").Layer | null} */
  #layer = null;
  #head = 0;
  /** @type {Pointed | null} */
  #pointed = null;
  #waiting = 0;

  /** @param {HTMLCanvasElement} canvas stays in sight while its parent, as high as the text, scrolls by */
  constructor(canvas) {
    this.#canvas = canvas;
  }

  /**
   * @param {import("../payload.js").Layer} layer
   * @param {number} head
   * @param {Pointed | null} pointed its lines alone are drawn; null draws all
   */
  show(layer, head, pointed) {
    this.#layer = layer;
    this.#head = head;
    this.#pointed = pointed;
    this.redraw();
  }

  /** Draws once before the next picture, however often it is asked. */
  redraw() {
    this.#waiting ||= requestAnimationFrame(() => {
      this.#waiting = 0;
      this.#draw();
    });
  }

  #draw() {
    const canvas = this.#canvas;
    const pen = canvas.getContext("2d");
    const column = /** @type {HTMLElement} */ (canvas.parentElement);
    if (!this.#layer || !pen) return;
    const { width, height, top } = canvas.getBoundingClientRect();
    const scale = window.devicePixelRatio;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    pen.scale(scale, scale);
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.lineCap = "round";

    const scrolled = top - column.getBoundingClientRect().top;
    let drawn = 0;
    for (const { query, key, weight } of this.#inSight(scrolled, scrolled + height)) {
      const from = middle(query + this.#layer.offset) - scrolled;
      const to = middle(key) - scrolled;
      pen.globalAlpha = this.#pointed ? 0.25 + 0.75 * weight : weight;
      pen.lineWidth = this.#pointed ? 1 + 3 * weight : 0.75 + 1.25 * weight;
      pen.beginPath();
      pen.moveTo(0, from);
      pen.bezierCurveTo(width / 2, from, width / 2, to, width, to);
      pen.stroke();
      drawn++;
    }
    canvas.dataset.drawn = String(drawn);
  }

  /**
   * The lines that are to be seen: those of the queries in sight and, of a token that is pointed at, all that
   * reach the window.
   * @param {number} top
   * @param {number} bottom
   * @returns {Generator<{query: number, key: number, weight: number}>}
   */
  *#inSight(top, bottom) {
    const layer = /** @type {import("../payload.js").Layer} */ (this.#layer);
    const { starts, positions, weights, queries, offset } = layer;
    const inSight = (/** @type {number} */ row) => middle(row) > top - ROW && middle(row) < bottom + ROW;
    const { side, position } = this.#pointed ?? { side: "none", position: 0 };
    const first = side === "query" ? position : 0;
    const last = side === "query" ? position : queries.length - 1;
    for (let query = first; query <= last; query++) {
      const row = this.#head * queries.length + query;
      const querySeen = inSight(query + offset);
      if (!querySeen && side === "none") continue;
      for (let at = starts[row]; at < starts[row + 1]; at++) {
        const key = positions[at];
        const wanted = side === "key" ? key === position : side === "query" || weights[at] > FAINTEST;
        if (wanted && (querySeen || inSight(key))) yield { query, key, weight: weights[at] };
      }
    }
  }
}

/** @param {number} row @returns {number} where its middle lies, in px from the first row's top */
const middle = (row) => (row + 0.5) * ROW;
