/** The read-out: the cell that is pointed at in numbers, and what weighs most in its row and in its column. */

import { element } from "../../dom.js";
import { counted, fine, percent } from "../../numbers.js";
import { tokenText } from "../../tokens.js";

/** @typedef {import("../../payload.js").Layer} Layer */
/** @typedef {import("../../payload.js").Entry} Entry */

/**
 * @typedef {object} Cell what is pointed at: queries [top, bottom) and keys [left, right)
 * @property {number} top
 * @property {number} bottom
 * @property {number} left
 * @property {number} right
 * @property {number | null} weight the mean of its pairs, null while it is on its way
 * @property {"" | "coming" | "coarser" | "listed"} why it is not what one would see at this zoom
 * @property {boolean} hidden no query of it may see a key of it
 */

/** How many of a row's or a column's tokens are named. */
const NAMED = 5;

/** @param {number} share @returns {string} without its unit, as short as goes into a cell */
export function brief(share) {
  const hundredths = 100 * share;
  if (hundredths < 0.05) return hundredths === 0 ? "" : "·";
  return hundredths < 9.95 ? hundredths.toFixed(1) : hundredths.toFixed(0);
}

/**
 * @param {Layer} layer
 * @param {number} head
 * @param {Cell} cell
 * @param {boolean} held
 * @param {(query: number, key: number) => void} go is called with a pair that is chosen
 * @returns {HTMLElement[]}
 */
export function readout(layer, head, cell, held, go) {
  const { top, bottom, left, right, weight } = cell;
  const pairs = (bottom - top) * (right - left);
  const told = weight === null ? "…" : fine(weight);
  /** @type {HTMLElement[]} */
  const made = [
    element("h2", {}, ...cellTokens(layer.queries, top, bottom, layer.offset),
      element("span", { class: "verb" }, bottom - top > 1 ? " look at " : " looks at "),
      ...cellTokens(layer.keys, left, right, 0)),
    element("p", { class: "map-weight", "data-query": top, "data-key": left, "data-pairs": pairs,
      "data-weight": weight ?? "", "data-why": cell.why },
    element("strong", {}, told), pairs > 1 ? ` on average over ${counted(pairs, "pair")}` : ""),
  ];
  const remark = cellRemark(layer, head, cell);
  if (remark) made.push(element("p", { class: "hint" }, remark));
  made.push(
    ...mapHeaviest(layer.keys, mapRow(layer, head, top, bottom), 0, (key) => go(top, key),
      bottom - top > 1 ? "Where these tokens look most" : "Where it looks most", "row"),
    ...mapHeaviest(layer.queries, mapColumn(layer, head, left, right), layer.offset, (query) => go(query, left),
      right - left > 1 ? "Who looks most at those" : "Who looks at it most", "column"),
    element("p", { class: held ? "hint held-hint" : "hint" }, held ? "Held. Click it again, or press Esc, to let go." : "Click to hold."));
  return made;
}

/** @param {Layer} layer @returns {HTMLElement[]} what stands there while nothing is pointed at */
export function mapInvitation({ queries, keys }) {
  return [
    element("p", { class: "hint" }, "All of this head’s weights: each row is one of "
      + `${counted(queries.length, "token")} that look, each column one of `
      + `${counted(keys.length, "token")} looked at.`),
    element("p", { class: "hint" }, "Point at a cell to read it. Drag to move, turn the wheel to come nearer; "
      + "or use the arrow keys, + and −."),
  ];
}

/** @param {string[]} texts @param {number} from @param {number} to @param {number} offset */
function cellTokens(texts, from, to, offset) {
  const last = to - 1;
  const one = (/** @type {number} */ at) =>
    [tokenText(texts[at]), element("span", { class: "number" }, String(at + offset))];
  return last > from ? [...one(from), " … ", ...one(last)] : one(from);
}

/** @param {Layer} layer @param {number} head @param {Cell} cell */
function cellRemark(layer, head, { top, weight, why, hidden }) {
  if (hidden) return "The pattern hides it: there is no weight to be had.";
  if (why === "coarser") return "The page holds no finer picture of this part.";
  if (why === "listed" && weight === 0) {
    return `It is not among the query’s heaviest keys. All that are not share ${fine(layer.rest(head, top))}.`;
  }
  return why === "listed" ? "From the list of the query’s heaviest keys." : "";
}

/**
 * @param {string[]} texts
 * @param {Entry[]} entries
 * @param {number} offset
 * @param {(position: number) => void} go
 * @param {string} title
 * @param {string} way
 */
function mapHeaviest(texts, entries, offset, go, title, way) {
  if (!entries.length) return [];
  return [element("h3", { class: "map-most" }, title), element("ol", { "data-way": way },
    ...entries.map(({ position, weight }) => {
      const button = element("button", { type: "button" }, tokenText(texts[position]),
        element("span", { class: "number" }, String(position + offset)),
        element("span", { class: "value" }, percent(weight)));
      button.style.setProperty("--value", weight.toFixed(4));
      button.addEventListener("click", () => go(position));
      return element("li", { "data-position": position, "data-weight": weight.toFixed(6) }, button);
    }))];
}

/**
 * What some queries list: each key's mean weight.
 * @param {Layer} layer
 * @param {number} head
 * @param {number} from
 * @param {number} to
 */
function mapRow(layer, head, from, to) {
  const sums = new Map();
  for (let query = from; query < to; query++) {
    const row = head * layer.queries.length + query;
    for (let at = layer.starts[row]; at < layer.starts[row + 1]; at++) {
      const key = layer.positions[at];
      sums.set(key, (sums.get(key) ?? 0) + layer.weights[at] / (to - from));
    }
  }
  return firstFew(sums);
}

/**
 * Who lists some keys: each query's weight on them.
 * @param {Layer} layer
 * @param {number} head
 * @param {number} from
 * @param {number} to
 */
function mapColumn(layer, head, from, to) {
  const sums = new Map();
  for (let query = 0; query < layer.queries.length; query++) {
    const row = head * layer.queries.length + query;
    for (let at = layer.starts[row]; at < layer.starts[row + 1]; at++) {
      const key = layer.positions[at];
      if (key >= from && key < to) sums.set(query, (sums.get(query) ?? 0) + layer.weights[at]);
    }
  }
  return firstFew(sums);
}

/** @param {Map<number, number>} sums @returns {Entry[]} */
function firstFew(sums) {
  return [...sums].map(([position, weight]) => ({ position, weight: Math.min(1, weight) }))
    .sort((a, b) => b.weight - a.weight).slice(0, NAMED);
}
