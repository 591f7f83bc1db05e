/** The map as a drawing that stands alone: the cells as a picture in it, the rulers and numbers as text. */

import { svg } from "../../dom.js";
import { cellNumbers, paintSeen, paintTiles } from "./paint.js";
import { marks, shortened } from "./rulers.js";

/** Dots a px of the picture in it. */
const FINE = 2;

/**
 * @param {import("./camera.js").Camera} camera
 * @param {import("./tiles.js").Tiles} tiles
 * @param {import("./palette.js").Palette} palette
 * @param {import("./outline.js").Outline | null} outline
 * @param {import("../../payload.js").Layer} layer
 * @param {number} head
 * @param {Record<"paper" | "ink" | "muted" | "low", string>} colour
 * @param {number} ruler px
 * @returns {SVGElement}
 */
export function mapDrawing(camera, tiles, palette, outline, layer, head, { paper, ink, muted, low }, ruler) {
  const right = Math.min(camera.width, camera.x(camera.columns));
  const bottom = Math.min(camera.height, camera.y(camera.rows));
  const [width, height] = [Math.ceil(ruler + right + 12), Math.ceil(ruler + bottom + 12)];
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(right * FINE);
  canvas.height = Math.ceil(bottom * FINE);
  const pen = canvas.getContext("2d");
  if (pen) {
    pen.scale(FINE, FINE);
    pen.fillStyle = low;
    paintSeen(pen, camera, outline, head);
    paintTiles(pen, FINE, camera, tiles, palette);
  }
  const text = (/** @type {Record<string, string | number>} */ how, /** @type {string} */ said) =>
    svg("text", { "font-size": 11, "dominant-baseline": "central", fill: ink, ...how }, said);
  const inside = (/** @type {number} */ at, /** @type {number} */ size) => Math.min(Math.max(0, at), size);
  const edges = outline ? outline.edges(camera, head).map(([x0, y0, x1, y1]) =>
    `M${inside(x0, right).toFixed(1)} ${inside(y0, bottom).toFixed(1)}L${inside(x1, right).toFixed(1)} `
      + inside(y1, bottom).toFixed(1)) : [];
  const most = Math.floor((ruler - 12) / 6.5);
  return svg("svg", {
    xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`,
    "font-family": "Inter, Helvetica, Arial, sans-serif",
  },
  svg("rect", { width, height, fill: paper }),
  text({ x: 8, y: 12, fill: muted }, `layer ${layer.entry.position} · head ${head}: queries down, keys across`),
  svg("g", { transform: `translate(${ruler} ${ruler})` },
    svg("image", { href: canvas.toDataURL("image/png"), width: right, height: bottom, preserveAspectRatio: "none" }),
    svg("path", { d: edges.join(""), stroke: muted, fill: "none", "stroke-width": 0.75 }),
    svg("rect", { width: right, height: bottom, fill: "none", stroke: muted, "stroke-width": 0.75 }),
    ...cellNumbers(camera, tiles, palette).map(({ x, y, text: said, fill, query, key }) =>
      text({ x, y, fill, "text-anchor": "middle", "data-query": query, "data-key": key }, said)),
    ...marks(camera, "down", layer.queries, layer.offset).filter(({ px }) => px >= 0 && px <= bottom)
      .map((mark) => text({ x: -8, y: mark.px, "text-anchor": "end" }, shortened(mark.text, most))),
    ...marks(camera, "across", layer.keys, 0).filter(({ px }) => px >= 0 && px <= right)
      .map((mark) => text(mark.token
        ? { x: 0, y: 0, transform: `translate(${mark.px} -8) rotate(-90)` }
        : { x: mark.px, y: -14, "text-anchor": "middle" }, shortened(mark.text, most)))));
}
