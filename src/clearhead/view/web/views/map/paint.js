/** Paint: draws what the camera sees of a head's map upon a canvas, a picture at a time. */

import { CELLS } from "./tiles.js";
import { brief } from "./readout.js";
import { legible, marks, shortened } from "./rulers.js";

/** @typedef {import("./camera.js").Camera} Camera */
/** @typedef {import("./tiles.js").Tiles} Tiles */
/** @typedef {import("./palette.js").Palette} Palette */
/** @typedef {import("./outline.js").Outline} Outline */

/** A cell that holds a pair may be this large, in px, before finer tiles are drawn. */
const COARSEST = 1.5;
/** Cells of fewer dots are smoothed: they can't all be of one size. */
const EVEN = 3;
/** From so many px a token on its weight is written into its cell. */
export const NUMBERED = 30;

const LETTERS = "11px system-ui, sans-serif";

/**
 * @typedef {object} Drawn what a picture was made of
 * @property {number} zoom that of the tiles one would want
 * @property {number} side of most cells there are, in tokens
 * @property {Set<string>} why the stand-ins in it, see Tiles.best
 */

/**
 * The map, without its rulers.
 * @param {CanvasRenderingContext2D} pen whose origin is the map's corner, in px
 * @param {number} sharp how many dots a px has
 * @param {Camera} camera
 * @param {Tiles} tiles
 * @param {Palette} palette
 * @param {Outline | null} outline
 * @param {number} head
 * @param {Record<"muted" | "rule" | "low", string>} colour
 * @returns {Drawn}
 */
export function paintMap(pen, sharp, camera, tiles, palette, outline, head, { muted, rule, low }) {
  pen.save();
  clipped(pen, camera);
  pen.fillStyle = low;
  paintSeen(pen, camera, outline, head);
  const drawn = paintTiles(pen, sharp, camera, tiles, palette);
  pen.lineWidth = 1;
  pen.strokeStyle = muted;
  if (outline) paintOutline(pen, camera, outline, head);
  pen.font = LETTERS;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (const { x, y, text, fill } of cellNumbers(camera, tiles, palette)) {
    pen.fillStyle = fill;
    pen.fillText(text, x, y);
  }
  pen.restore();
  pen.strokeStyle = rule;
  pen.lineWidth = 1;
  pen.strokeRect(0, 0, ...mapEnd(camera));
  return drawn;
}

/** @param {Camera} camera @returns {[number, number]} where the map ends on the screen, in px */
function mapEnd(camera) {
  return [Math.min(camera.width, camera.x(camera.columns)), Math.min(camera.height, camera.y(camera.rows))];
}

/** @param {CanvasRenderingContext2D} pen @param {Camera} camera */
function clipped(pen, camera) {
  pen.beginPath();
  pen.rect(0, 0, ...mapEnd(camera));
  pen.clip();
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} sharp
 * @param {Camera} camera
 * @param {Tiles} tiles
 * @param {Palette} palette
 * @returns {Drawn}
 */
export function paintTiles(pen, sharp, camera, tiles, palette) {
  const zoom = tiles.zoomOf(COARSEST / camera.scale);
  const wide = CELLS * tiles.side(zoom);
  const right = Math.min(camera.columns, camera.key(camera.width));
  const bottom = Math.min(camera.rows, camera.query(camera.height));
  /** @type {Map<number, number>} */
  const sides = new Map();
  /** @type {Set<string>} */
  const why = new Set();
  const whole = (/** @type {number} */ px) => Math.round(px * sharp) / sharp;
  for (let y = Math.floor(camera.top / wide); y * wide < bottom; y++) {
    for (let x = Math.floor(camera.left / wide); x * wide < right; x++) {
      const best = tiles.best(zoom, y, x);
      if (best.why) why.add(best.why);
      const { tile } = best;
      if (!tile) continue;
      const { side } = tile;
      sides.set(side, (sides.get(side) ?? 0) + 1);
      // Only what is in sight of it, by whole cells: a browser's canvas reads all that it is told to.
      const cell = (/** @type {number} */ at, /** @type {number} */ from) => (at - from) / side;
      const x0 = Math.floor(cell(Math.max(x * wide, camera.left), tile.left));
      const y0 = Math.floor(cell(Math.max(y * wide, camera.top), tile.top));
      const x1 = Math.min(tile.width, Math.ceil(cell(Math.min((x + 1) * wide, right), tile.left)));
      const y1 = Math.min(tile.height, Math.ceil(cell(Math.min((y + 1) * wide, bottom), tile.top)));
      if (x1 <= x0 || y1 <= y0) continue;
      const [toX, toY] = [whole(camera.x(tile.left + x0 * side)), whole(camera.y(tile.top + y0 * side))];
      const [endX, endY] = [whole(camera.x(tile.left + x1 * side)), whole(camera.y(tile.top + y1 * side))];
      pen.imageSmoothingEnabled = side * camera.scale * sharp < EVEN;
      pen.drawImage(palette.draw(tile), x0, y0, x1 - x0, y1 - y0, toX, toY, endX - toX, endY - toY);
    }
  }
  const [most] = [...sides].sort((a, b) => b[1] - a[1]);
  return { zoom, side: most ? most[0] : tiles.side(zoom), why };
}

/**
 * What may be seen at all, upon which a weight too small for the scale leaves no trace.
 * @param {CanvasRenderingContext2D} pen
 * @param {Camera} camera
 * @param {Outline | null} outline where it is not known, all
 * @param {number} head
 */
export function paintSeen(pen, camera, outline, head) {
  pen.beginPath();
  if (outline) for (const [x, y, width, height] of outline.bands(camera, head)) pen.rect(x, y, width, height);
  else pen.rect(camera.x(0), camera.y(0), camera.columns * camera.across, camera.rows * camera.scale);
  pen.fill();
}

/** @param {CanvasRenderingContext2D} pen @param {Camera} camera @param {Outline} outline @param {number} head */
function paintOutline(pen, camera, outline, head) {
  pen.beginPath();
  for (const [x0, y0, x1, y1] of outline.edges(camera, head)) {
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
  }
  pen.stroke();
}

/**
 * The cross-hair: bands over the cell's row and column, and its frame.
 * @param {CanvasRenderingContext2D} pen
 * @param {Camera} camera
 * @param {import("./readout.js").Cell} cell
 * @param {boolean} held
 * @param {string} ink
 */
export function paintCross(pen, camera, cell, held, ink) {
  const [right, bottom] = mapEnd(camera);
  const [x, y] = [camera.x(cell.left), camera.y(cell.top)];
  const [w, h] = [(cell.right - cell.left) * camera.across, (cell.bottom - cell.top) * camera.scale];
  pen.save();
  clipped(pen, camera);
  pen.strokeStyle = ink;
  pen.globalAlpha = 0.55;
  pen.lineWidth = 1;
  pen.beginPath();
  for (const at of w > 8 ? [x, x + w] : [x + w / 2]) {
    pen.moveTo(at, 0);
    pen.lineTo(at, bottom);
  }
  for (const at of h > 8 ? [y, y + h] : [y + h / 2]) {
    pen.moveTo(0, at);
    pen.lineTo(right, at);
  }
  pen.stroke();
  pen.globalAlpha = 1;
  pen.lineWidth = held ? 2.5 : 1.5;
  const room = Math.max(0, 7 - w) / 2;
  pen.strokeRect(x - room, y - room, w + 2 * room, h + 2 * room);
  pen.restore();
}

/**
 * The weights in their cells, where there is room for them.
 * @param {Camera} camera
 * @param {Tiles} tiles
 * @param {Palette} palette
 * @returns {{x: number, y: number, text: string, fill: string, query: number, key: number}[]}
 */
export function cellNumbers(camera, tiles, palette) {
  if (camera.scale < NUMBERED) return [];
  const found = [];
  const bottom = Math.min(camera.rows, camera.query(camera.height));
  const right = Math.min(camera.columns, camera.key(camera.width));
  for (let query = Math.floor(camera.top); query < bottom; query++) {
    for (let key = Math.floor(camera.left); key < right; key++) {
      const { tile } = tiles.best(tiles.deepest, Math.floor(query / CELLS), Math.floor(key / CELLS));
      if (!tile || tile.side > 1) continue;
      const weight = tile.at(query, key);
      const text = brief(weight);
      if (!text) continue;
      const fill = palette.upon(weight, 1);
      found.push({ x: camera.x(key + 0.5), y: camera.y(query + 0.5), text, fill, query, key });
    }
  }
  return found;
}

/**
 * The rulers at the top and on the left, in the space that is left for them.
 * @param {CanvasRenderingContext2D} pen
 * @param {Camera} camera
 * @param {import("../../payload.js").Layer} layer
 * @param {{ink: string, muted: string, size: number}} how size: that of the space, px
 * @param {{query: number, key: number} | null} spot whose marks stand out
 */
export function paintRulers(pen, camera, layer, { ink, muted, size }, spot) {
  const most = Math.floor((size - 12) / 6.5);
  pen.font = LETTERS;
  pen.textBaseline = "middle";
  if (!legible(camera)) {
    pen.fillStyle = muted;
    pen.textAlign = "left";
    pen.fillText("keys: the tokens looked at →", 0, -34);
    pen.save();
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "right";
    pen.fillText("← queries: the tokens that look", 0, -46);
    pen.restore();
  }
  for (const mark of marks(camera, "down", layer.queries, layer.offset)) {
    if (mark.px < 0 || mark.px > camera.height) continue;
    pen.textAlign = "right";
    pen.fillStyle = spot && spot.query === mark.at ? ink : muted;
    pen.fillText(shortened(mark.text, most), -8, mark.px);
    if (!mark.token) pen.fillRect(-5, mark.px, 5, 1);
  }
  for (const mark of marks(camera, "across", layer.keys, 0)) {
    if (mark.px < 0 || mark.px > camera.width) continue;
    pen.fillStyle = spot && spot.key === mark.at ? ink : muted;
    if (mark.token) {
      pen.save();
      pen.translate(mark.px, -8);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(shortened(mark.text, most), 0, 0);
      pen.restore();
    } else {
      pen.textAlign = "center";
      pen.fillText(mark.text, mark.px, -14);
      pen.fillRect(mark.px, -5, 1, 5);
    }
  }
}
