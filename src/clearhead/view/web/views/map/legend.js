/** The legend: what the map's colours stand for, and what of it could not be drawn as finely as one would want. */

import { element } from "../../dom.js";
import { fine, percent } from "../../numbers.js";
import { NUMBERED } from "./paint.js";

/**
 * @param {HTMLElement} legend filled anew if it has changed
 * @param {import("./palette.js").Palette} palette
 * @param {import("./camera.js").Camera} camera
 * @param {number} side of most cells, in tokens
 */
export function mapLegend(legend, palette, camera, side) {
  const [low, high] = palette.ends(side);
  const numbered = side === 1 && camera.scale >= NUMBERED;
  const scale = `${side}${palette.linear}${numbered}`;
  if (legend.dataset.scale === scale) return;
  legend.dataset.scale = scale;
  const what = side > 1 ? `mean weight of ${side} × ${side} pairs`
    : `weight of a pair${numbered ? ", in the cells in %" : ""}`;
  legend.replaceChildren(
    palette.linear ? "0" : `≤ ${fine(low)}`, element("span", { class: "ramp" }), fine(high),
    element("span", { class: "map-what" }, what));
}

/** @param {Set<string>} why the stand-ins, see Tiles.best @param {import("../../payload.js").Contents} contents */
export function mapRemark(why, { share, live }) {
  const failed = "Finer tiles of this part could not be had: it is drawn from";
  if (live && why.has("coarser")) return `${failed} coarser ones.`;
  if (live && why.has("listed")) return `${failed} each query’s heaviest keys.`;
  const all = "clearhead serve, or a page of a larger --budget, has all of it.";
  if (why.has("listed")) {
    const held = share ? `, ${percent(share.mean)} of the weight on average` : "";
    return `This part is drawn from the heaviest keys of each query that this page holds${held}: ${all}`;
  }
  if (why.has("coarser")) return `This page holds no finer picture of this part: ${all}`;
  return "";
}
