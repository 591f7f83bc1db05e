/** Thumbs: the small pictures of all heads, layer by layer, asked for when they come in sight. */

import { heatScale } from "../../colours.js";
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
  #root;
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
   * @param {HTMLElement} root whose colours are used
   * @param {(layer: number) => void} arrived
   */
  constructor(payload, root, arrived) {
    this.#payload = payload;
    this.#root = root;
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

  /** Draws all again, in the colours that the page has now. */
  recolour() {
    const scale = heatScale(this.#root);
    for (const sheet of this.#sheets.values()) paintSheet(sheet, scale);
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
    paintSheet(sheet, heatScale(this.#root));
    this.#sheets.set(layer, sheet);
    this.#arrived(layer);
  }
}

/** @param {Sheet} sheet @param {Uint8ClampedArray} scale */
function paintSheet({ codes, width, height, canvas }, scale) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(canvas.width, height);
  for (let at = 0; at < codes.length; at++) {
    const [head, row, column] = [Math.floor(at / (width * height)), Math.floor(at / width) % height, at % width];
    const pixel = 4 * (row * canvas.width + head * width + column);
    const colour = 3 * codes[at];
    for (let part = 0; part < 3; part++) image.data[pixel + part] = scale[colour + part];
    image.data[pixel + 3] = 255;
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
