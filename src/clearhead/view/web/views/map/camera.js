/** The camera: which part of the map is in sight, and how large. Lengths in tokens, places on the screen in px. */

/** The tallest a token is drawn, in px: room for a number. */
const TALLEST = 64;
/** Cells may be so many times as wide as they are high, so that a map fills a wide screen. */
const STRETCHED = 2;

export class Camera {
  /** The map: so many queries down and keys across. */
  rows = 1;
  columns = 1;
  /** Its window on the screen. */
  width = 1;
  height = 1;
  /** What lies in the window's corner. */
  left = 0;
  top = 0;
  /** px a query */
  scale = 1;
  /** How many times as wide as high a cell is. */
  stretch = 1;
  /** Whether the whole is in sight, and stays so when the window changes. */
  whole = true;

  /** @param {number} width @param {number} height */
  resize(width, height) {
    const { x, y } = this.centre;
    Object.assign(this, { width, height });
    this.#stretch();
    if (this.whole) this.fit();
    else this.look(x, y, this.scale);
  }

  /** @param {number} rows @param {number} columns @returns {boolean} whether it is another map than before */
  show(rows, columns) {
    if (rows === this.rows && columns === this.columns) return false;
    Object.assign(this, { rows, columns });
    this.#stretch();
    this.fit();
    return true;
  }

  fit() {
    this.whole = true;
    this.scale = this.#least;
    this.left = this.top = 0;
  }

  #stretch() {
    this.stretch = Math.min(Math.max(1, this.width / this.columns / (this.height / this.rows)), STRETCHED);
  }

  get #least() {
    return Math.min(this.width / this.columns / this.stretch, this.height / this.rows);
  }

  get #most() {
    return Math.max(TALLEST, this.#least);
  }

  /** px a key */
  get across() {
    return this.scale * this.stretch;
  }

  /** The middle of what is in sight. */
  get centre() {
    return { x: this.left + this.width / this.across / 2, y: this.top + this.height / this.scale / 2 };
  }

  /** How many tokens the window's shorter side takes. */
  get span() {
    return Math.min(this.width / this.stretch, this.height) / this.scale;
  }

  /** @param {number} span */
  scaleOf(span) {
    return Math.min(this.width / this.stretch, this.height) / span;
  }

  /** @param {number} x the key in the middle @param {number} y the query @param {number} scale */
  look(x, y, scale) {
    this.scale = Math.min(Math.max(scale, this.#least), this.#most);
    this.left = x - this.width / this.across / 2;
    this.top = y - this.height / this.scale / 2;
    this.#stay();
  }

  /** @param {number} factor @param {number} px what stays in its place @param {number} py */
  zoom(factor, px, py) {
    const x = this.key(px);
    const y = this.query(py);
    this.scale = Math.min(Math.max(this.scale * factor, this.#least), this.#most);
    this.left = x - px / this.across;
    this.top = y - py / this.scale;
    this.#stay();
  }

  /** @param {number} dx px @param {number} dy px */
  pan(dx, dy) {
    this.left += dx / this.across;
    this.top += dy / this.scale;
    this.#stay();
  }

  /** @param {number} query @param {number} key @param {number} cell in tokens; brought in sight with some room */
  reveal(query, key, cell) {
    const moved = (/** @type {number} */ from, /** @type {number} */ at, /** @type {number} */ size) => {
      const room = Math.min(2 * cell, size / 4);
      return Math.max(Math.min(from, at - room), at + cell + room - size);
    };
    this.left = moved(this.left, key, this.width / this.across);
    this.top = moved(this.top, query, this.height / this.scale);
    this.#stay();
  }

  /** No further than the text goes; what is smaller than the window lies in its corner. */
  #stay() {
    this.left = Math.max(0, Math.min(this.left, this.columns - this.width / this.across));
    this.top = Math.max(0, Math.min(this.top, this.rows - this.height / this.scale));
    this.whole = this.scale <= this.#least * 1.000001;
  }

  /** @param {number} px @returns {number} */
  key(px) {
    return this.left + px / this.across;
  }

  /** @param {number} py @returns {number} */
  query(py) {
    return this.top + py / this.scale;
  }

  /** @param {number} key @returns {number} px */
  x(key) {
    return (key - this.left) * this.across;
  }

  /** @param {number} query @returns {number} px */
  y(query) {
    return (query - this.top) * this.scale;
  }
}
