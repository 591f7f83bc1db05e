/** The palette: the colour of a cell's weight, on a log scale over four decades, or on a linear one. */

import { colours, heatScale } from "../../colours.js";

/** @typedef {import("./tiles.js").Tile} Tile */

/** As draw.py has it. */
export const DECADES = 4;

/**
 * A scale of colours. A cell of s tokens a side can weigh 1 / s at most, since a query's weights sum to 1: that is the
 * scale's end, so that what is as heavy as can be has one colour at every zoom.
 */
export class Palette {
  #colours;
  #packed = new Uint32Array(256);

  /** @param {Uint8ClampedArray} scale as colours.js makes it @param {boolean} linear */
  constructor(scale, linear) {
    this.#colours = scale;
    this.linear = linear;
    const bytes = new Uint8ClampedArray(this.#packed.buffer);
    for (let step = 0; step < 256; step++) bytes.set([...scale.subarray(3 * step, 3 * step + 3), 255], 4 * step);
  }

  /** @param {number} weight @param {number} side of the cell, in tokens @returns {number} 0 to 255 */
  step(weight, side) {
    const part = this.linear ? weight * side : 1 + Math.log10(weight * side) / DECADES;
    return Math.max(0, Math.min(255, Math.round(255 * part)));
  }

  /** @param {number} share of a query's weight @returns {number} its colour as a pixel's 32 bits */
  pixel(share) {
    return this.#packed[this.step(share, 1)];
  }

  /** @param {number} weight @param {number} side @returns {string} dark or light, whichever is read upon the colour */
  upon(weight, side) {
    const at = 3 * this.step(weight, side);
    const [red, green, blue] = [0, 1, 2].map((n) => (this.#colours[at + n] / 255) ** 2.2);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#000000" : "#ffffff";
  }

  /** @param {number} side @returns {[number, number]} the weights at the scale's ends */
  ends(side) {
    return [this.linear ? 0 : 10 ** -DECADES / side, 1 / side];
  }

  /**
   * The tile, a pixel a cell, drawn once; what is below the scale is left clear.
   * @param {Tile} tile
   * @returns {HTMLCanvasElement}
   */
  draw(tile) {
    if (tile.drawn && tile.palette === this) return tile.drawn;
    const canvas = tile.drawn ?? document.createElement("canvas");
    canvas.width = tile.width;
    canvas.height = tile.height;
    const pixels = new ImageData(tile.width, tile.height);
    const cells = new Uint32Array(pixels.data.buffer);
    const { values, side } = tile;
    for (let cell = 0; cell < cells.length; cell++) {
      const step = values[cell] > 0 ? this.step(values[cell], side) : 0;
      if (step) cells[cell] = this.#packed[step];
    }
    canvas.getContext("2d")?.putImageData(pixels, 0, 0);
    tile.drawn = canvas;
    tile.palette = this;
    return canvas;
  }
}

/**
 * The palette of a page's theme, in the tone that the address names.
 * @param {HTMLElement} root
 * @param {import("../../state.js").Placed} place
 * @param {{palette: Palette, name: string} | null} before
 * @returns {{palette: Palette, name: string}} the same as before if nothing has changed
 */
export function paletteOf(root, { tone }, before) {
  const { low, mid, high } = colours(root);
  const name = [low, mid, high, tone].join();
  return before?.name === name ? before : { palette: new Palette(heatScale(root), tone === "linear"), name };
}
