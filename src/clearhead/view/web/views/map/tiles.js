/** Tiles: the squares that a head's map is made of, fetched when they are wanted, and what stands in for them. */

import { halves } from "../../half.js";

/** @typedef {import("../../payload.js").Payload} Payload */
/** @typedef {import("../../payload.js").Layer} Layer */

/** A tile has so many cells a side, as tiles.py says. */
export const CELLS = 256;
/** How many tiles are kept. */
const TILES = 96;
/** How many are asked for at a time. */
const ASKED = 6;

/** What a half's 16 bits stand for, as a table. */
const HALF = halves(Uint16Array.from({ length: 65536 }, (_, bits) => bits).buffer, 0, 65536);

/** A square of cells. */
export class Tile {
  /** @type {HTMLCanvasElement | null} */
  drawn = null;
  /** @type {unknown} the palette in which it was drawn */
  palette = null;

  /**
   * @param {number} y in tiles
   * @param {number} x
   * @param {number} side of a cell, in tokens
   * @param {number} height in cells
   * @param {number} width
   * @param {Float32Array} values
   * @param {boolean} listed made of the heaviest keys alone
   */
  constructor(y, x, side, height, width, values, listed) {
    this.side = side;
    this.top = y * CELLS * side;
    this.left = x * CELLS * side;
    this.height = height;
    this.width = width;
    this.values = values;
    this.listed = listed;
  }

  /** @param {number} query @param {number} key @returns {number} the mean weight of the cell that the pair is in */
  at(query, key) {
    const row = Math.floor((query - this.top) / this.side);
    return this.values[row * this.width + Math.floor((key - this.left) / this.side)];
  }
}

/** The tiles of one head. */
export class Tiles {
  #payload;
  #arrived;
  /** @type {Map<string, Tile>} in the order of their last use */
  #kept = new Map();
  /** @type {Set<string>} */
  #asked = new Set();
  /** @type {Set<string>} */
  #failed = new Set();
  /** @type {Map<string, [number, number, number]>} */
  #wanted = new Map();
  index = 0;
  head = 0;
  /** @type {Layer | null} */
  layer = null;
  rows = 1;
  columns = 1;
  deepest = 0;

  /** @param {Payload} payload @param {() => void} arrived */
  constructor(payload, arrived) {
    this.#payload = payload;
    this.#arrived = arrived;
  }

  /** @param {number} index of the layer @param {Layer} layer @param {number} head */
  show(index, layer, head) {
    Object.assign(this, { index, layer, head });
    this.rows = layer.queries.length;
    this.columns = layer.keys.length;
    this.deepest = Math.max(0, Math.ceil(Math.log2(Math.max(this.rows, this.columns) / CELLS)));
    this.#failed.clear();
  }

  /** @param {number} zoom @returns {number} a cell's side in tokens */
  side(zoom) {
    return 2 ** (this.deepest - zoom);
  }

  /** @param {number} tokens @returns {number} the zoom whose cells are as large as that, or just smaller */
  zoomOf(tokens) {
    return Math.min(this.deepest, Math.max(0, this.deepest - Math.floor(Math.log2(Math.max(1, tokens)))));
  }

  /** @param {number} zoom @param {number} y @param {number} x */
  #name(zoom, y, x) {
    return `tile-${this.index}-${this.head}-${zoom}-${y}-${x}`;
  }

  /** @param {number} zoom @param {number} y @param {number} x @returns {boolean} whether it can be had */
  has(zoom, y, x) {
    const name = this.#name(zoom, y, x);
    return this.#payload.has(name) && !this.#failed.has(name);
  }

  /**
   * What there is to draw of a tile by now: the tile itself; until it comes the nearest coarser one that is there;
   * where it can't be had, the nearest coarser one that can, or the heaviest keys that the page lists. Single weights
   * are taken from the list alone, since a mean would be drawn as if it were one.
   * @param {number} zoom
   * @param {number} y
   * @param {number} x
   * @returns {{tile: Tile | null, why: "" | "coming" | "coarser" | "listed"}}
   */
  best(zoom, y, x) {
    if (this.has(zoom, y, x)) {
      const tile = this.#get(zoom, y, x);
      return tile ? { tile, why: "" } : { tile: this.#coarser(zoom, y, x, false), why: "coming" };
    }
    const coarser = zoom < this.deepest ? this.#coarser(zoom, y, x, true) : null;
    if (coarser) return { tile: coarser, why: "coarser" };
    if (zoom < this.deepest && this.#hasCoarser(zoom, y, x)) return { tile: null, why: "coming" };
    return { tile: this.#listed(zoom, y, x), why: "listed" };
  }

  /** @param {number} zoom @param {number} y @param {number} x */
  #get(zoom, y, x) {
    const name = this.#name(zoom, y, x);
    const tile = this.#kept.get(name);
    if (tile) this.#keep(name, tile);
    else if (!this.#asked.has(name)) this.#wanted.set(name, [zoom, y, x]);
    return tile ?? null;
  }

  /** @param {string} name @param {Tile} tile */
  #keep(name, tile) {
    this.#kept.delete(name);
    this.#kept.set(name, tile);
    if (this.#kept.size > TILES) this.#kept.delete(this.#kept.keys().next().value ?? "");
  }

  /** @param {number} zoom @param {number} y @param {number} x @param {boolean} ask for those that aren't there yet */
  #coarser(zoom, y, x, ask) {
    for (let up = 1; up <= zoom; up++) {
      const [row, column] = [y >> up, x >> up];
      const there = this.#kept.get(this.#name(zoom - up, row, column));
      if (there) return there;
      if (ask && this.has(zoom - up, row, column)) this.#get(zoom - up, row, column);
    }
    return null;
  }

  /** @param {number} zoom @param {number} y @param {number} x */
  #hasCoarser(zoom, y, x) {
    for (let up = 1; up <= zoom; up++) if (this.has(zoom - up, y >> up, x >> up)) return true;
    return false;
  }

  /** Asks for what was wanted since the last time, the last first. */
  fetch() {
    if (this.#wanted.size) this.#payload.layer(this.index); // not to be forgotten over many tiles
    for (const [name, at] of [...this.#wanted].reverse()) {
      if (this.#asked.size >= ASKED) break;
      this.#asked.add(name);
      this.#load(...at).then((tile) => this.#keep(name, tile), () => this.#failed.add(name)).finally(() => {
        this.#asked.delete(name);
        this.#arrived();
      });
    }
    this.#wanted.clear();
  }

  /** @param {number} zoom @param {number} y @param {number} x @returns {Promise<Tile>} */
  #load(zoom, y, x) {
    const { height, width } = this.#shape(zoom, y, x);
    const side = this.side(zoom);
    return this.#payload.block(this.#name(zoom, y, x), (buffer) => {
      const values = new Float32Array(height * width);
      const bits = new Uint16Array(buffer);
      for (let cell = 0; cell < values.length; cell++) values[cell] = HALF[bits[cell]];
      return new Tile(y, x, side, height, width, values, false);
    });
  }

  /** @param {number} zoom @param {number} y @param {number} x @returns {{height: number, width: number}} in cells */
  #shape(zoom, y, x) {
    const side = this.side(zoom);
    return {
      height: Math.min(CELLS, Math.ceil(this.rows / side) - y * CELLS),
      width: Math.min(CELLS, Math.ceil(this.columns / side) - x * CELLS),
    };
  }

  /** A tile of the listed weights. @param {number} zoom @param {number} y @param {number} x */
  #listed(zoom, y, x) {
    const layer = /** @type {Layer} */ (this.layer);
    const name = `listed-${this.#name(zoom, y, x)}`;
    const there = this.#kept.get(name);
    if (there) return there;
    const side = this.side(zoom);
    const { height, width } = this.#shape(zoom, y, x);
    const tile = new Tile(y, x, side, height, width, new Float32Array(height * width), true);
    const bottom = Math.min(this.rows, tile.top + side * height);
    const right = Math.min(this.columns, tile.left + side * width);
    for (let query = tile.top; query < bottom; query++) {
      const row = this.head * this.rows + query;
      const down = Math.floor((query - tile.top) / side);
      const tall = Math.min(side, this.rows - tile.top - down * side);
      for (let at = layer.starts[row]; at < layer.starts[row + 1]; at++) {
        const key = layer.positions[at];
        if (key < tile.left || key >= right) continue;
        const across = Math.floor((key - tile.left) / side);
        const wide = Math.min(side, this.columns - tile.left - across * side);
        tile.values[down * width + across] += layer.weights[at] / (tall * wide);
      }
    }
    this.#keep(name, tile);
    return tile;
  }

  /**
   * All weights of one query, from the deepest tiles; of its listed keys alone where these can't be had.
   * @param {number} query
   * @returns {Promise<{weights: Float32Array, all: boolean}>}
   */
  async row(query) {
    const { layer, head, deepest, columns } = this;
    const y = Math.floor(query / CELLS);
    const across = Array.from({ length: Math.ceil(columns / CELLS) }, (_, x) => x);
    const weights = new Float32Array(columns);
    if (across.every((x) => this.has(deepest, y, x))) {
      for (const tile of await Promise.all(across.map((x) => this.#load(deepest, y, x)))) {
        const from = (query - tile.top) * tile.width;
        weights.set(tile.values.subarray(from, from + tile.width), tile.left);
      }
      return { weights, all: true };
    }
    for (const { position, weight } of layer?.row(head, query) ?? []) weights[position] = weight;
    return { weights, all: false };
  }
}
