/** The rulers: the tokens along the map's edges where there is room for them, else their positions. */

import { spelled } from "../../tokens.js";

/** @typedef {import("./camera.js").Camera} Camera */
/** @typedef {{at: number, px: number, text: string, token: boolean}} Mark a mark of a ruler: where, and what it says */

/** A token's text is to be read from so many px on. */
const LEGIBLE = 13;
/** The least px between two positions. */
const APART = { down: 34, across: 64 };

/** @param {Camera} camera @returns {boolean} whether there is room for the tokens' texts, down and so across too */
export function legible(camera) {
  return camera.scale >= LEGIBLE;
}

/**
 * @param {Camera} camera
 * @param {"down" | "across"} way queries or keys
 * @param {string[]} texts
 * @param {number} offset of a position's number
 * @returns {Mark[]} those in sight, each in the middle of its token
 */
export function marks(camera, way, texts, offset) {
  const [from, size, scale] = way === "down" ? [camera.top, camera.height, camera.scale]
    : [camera.left, camera.width, camera.across];
  const place = (/** @type {number} */ at) => (at + 0.5 - from) * scale;
  const texted = legible(camera);
  const step = texted ? 1 : Math.max(1, roundLength(APART[way] / scale));
  const first = Math.ceil((from + offset) / step) * step - offset;
  /** @type {Mark[]} */
  const found = [];
  const last = Math.min(texts.length, from + size / scale);
  for (let at = texted ? Math.floor(from) : first; at < last; at += step) {
    found.push({ at, px: place(at), text: texted ? spelled(texts[at]) : String(at + offset), token: texted });
  }
  return found;
}

/** @param {number} length @returns {number} the next of 1, 2, 5, 10, … */
function roundLength(length) {
  const power = 10 ** Math.floor(Math.log10(length));
  return power * (/** @type {number} */ ([1, 2, 5, 10].find((part) => part * power >= length)));
}

/** @param {string} text @param {number} most characters @returns {string} */
export function shortened(text, most) {
  const characters = [...text];
  return characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : text;
}
