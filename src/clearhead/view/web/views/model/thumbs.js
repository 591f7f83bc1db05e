/** Thumbs: the small pictures of all heads, layer by layer, asked for when they come in sight. */

import { element } from "../../dom.js";

/** @typedef {import("../../payload.js").Payload} Payload */

/** The most cells across a picture; see thumbs.py. */
export const THUMB_CELLS = 32;
/** How many layers are asked for at a time. */
const ASKED_AT_A_TIME = 4;

/**
 * @typedef {object} Sheet the pictures of a layer's heads, side by side
 * @property {Uint8Array} codes as [head][row][column]: 255 · √ the share of the weight
 * @property {number} width of one picture, in cells
 * @property {number} height
 * @property {HTMLCanvasElement} canvas one pixel a cell, in the page's colours
 */

export class Thumbs {
  #payload;
  #palette;
  #arrived;
  /** @type {Map<number, Sheet>} */
  #sheets = new Map();
  /** @type {number[]} that are wanted and not asked for yet */
  #wanted = [];
  /** @type {Set<number>} that are wanted, asked for or here */
  #known = new Set();
  #asked = 0;

  /**
   * @param {Payload} payload
   * @param {import("../map/palette.js").Palette} palette
   * @param {(layer: number) => void} arrived
   */
  constructor(payload, palette, arrived) {
    this.#payload = payload;
    this.#palette = palette;
    this.#arrived = arrived;
  }

  /** @param {number} layer @returns {boolean} whether its pictures can be had */
  has(layer) {
    return this.#payload.has(`thumbs-${layer}`);
  }

  /** @param {number} layer @returns {Sheet | null} null if it is not here, or not yet: then it is asked for */
  sheet(layer) {
    const sheet = this.#sheets.get(layer) ?? null;
    if (!sheet && !this.#known.has(layer) && this.has(layer)) {
      this.#known.add(layer);
      this.#wanted.push(layer);
      this.#ask();
    }
    return sheet;
  }

  /** Draws all again. @param {import("../map/palette.js").Palette} palette */
  recolour(palette) {
    this.#palette = palette;
    for (const sheet of this.#sheets.values()) paintSheet(sheet, palette);
  }

  #ask() {
    while (this.#asked < ASKED_AT_A_TIME && this.#wanted.length) {
      const layer = /** @type {number} */ (this.#wanted.shift());
      this.#asked++;
      this.#payload.block(`thumbs-${layer}`, (buffer) => new Uint8Array(buffer))
        .then((codes) => this.#take(layer, codes), () => this.#known.delete(layer))
        .finally(() => {
          this.#asked--;
          this.#ask();
        });
    }
  }

  /** @param {number} layer @param {Uint8Array} codes */
  #take(layer, codes) {
    const { layers, texts } = this.#payload.contents;
    const { heads, queries, keys } = layers[layer];
    const [height, width] = [queries, keys].map((text) => Math.min(THUMB_CELLS, texts[text].length));
    const canvas = element("canvas", { width: heads * width, height });
    const sheet = { codes, width, height, canvas };
    paintSheet(sheet, this.#palette);
    this.#sheets.set(layer, sheet);
    this.#arrived(layer);
  }
}

/** @param {Sheet} sheet @param {import("../map/palette.js").Palette} palette the large map's, so that a share has one colour */
function paintSheet({ codes, width, height, canvas }, palette) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(canvas.width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const colours = Uint32Array.from({ length: 256 }, (_, code) => palette.pixel((code / 255) ** 2));
  for (let at = 0; at < codes.length; at++) {
    const [head, row, column] = [Math.floor(at / (width * height)), Math.floor(at / width) % height, at % width];
    pixels[row * canvas.width + head * width + column] = colours[codes[at]];
  }
  context.putImageData(image, 0, 0);
}

/**
 * Draws a head's picture into a square.
 * @param {CanvasRenderingContext2D} context
 * @param {Sheet} sheet
 * @param {number} head
 * @param {number} x
 * @param {number} y
 * @param {number} size
 */
export function drawThumb(context, { canvas, width, height }, head, x, y, size) {
  // Cells that grow keep their edges; cells that shrink run into one another, so that none is lost.
  context.imageSmoothingEnabled = size * (window.devicePixelRatio || 1) < Math.max(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, head * width, 0, width, height, x, y, size, size);
}
