/** The caption of a saved head: which model and module it is of, and what of it is to be seen. */

import { counted } from "../../numbers.js";

/** The longest line that fits below the drawing, in letters. */
const CAPTION = 110;

/**
 * @param {import("../../payload.js").Contents} contents
 * @param {import("../../payload.js").LayerEntry} entry
 * @param {import("../../state.js").Placed} place
 * @param {import("./units.js").Sides} sides
 * @param {number} first the first row in sight
 * @param {number} rows how many are
 * @returns {string[]} its lines
 */
export function caption({ facts }, entry, { least, between, without }, { queries, keys, offset }, first, rows) {
  const all = Math.max(keys.count, offset + queries.count);
  const unit = queries.areTokens && keys.areTokens ? "token" : "word";
  const last = Math.min(all, first + rows) - 1;
  const number = (/** @type {number} */ row) => keys.numbers[row] ?? queries.numbers[row - offset];
  const seen = [
    first > 0 || last < all - 1 ? `${unit}s ${number(first)} to ${number(last)}, of ${counted(all, unit)}`
      : `all ${counted(all, unit)}`,
    ...(least ? [`lines from ${least}\u202f%`] : []),
    ...(without ? [`without key${without.includes(".") ? "s" : ""} ${without.replaceAll(".", ", ")}, the others scaled to 100\u202f%`] : []),
    ...(between ? ["only between some sentences"] : []),
  ];
  return [[...(facts.Model ? [facts.Model] : []), entry.name], seen].map((parts) => {
    const line = [...parts.join(" · ")];
    return line.length > CAPTION ? `${line.slice(0, CAPTION - 1).join("")}…` : line.join("");
  });
}
