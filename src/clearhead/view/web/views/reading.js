/** The reading: a token's weights in numbers, heaviest first, and how much is not shown. */

import { element } from "../dom.js";
import { percent } from "../numbers.js";
import { tokenText } from "../tokens.js";

/** @typedef {import("./lines.js").Pointed} Pointed */

/** @returns {HTMLElement[]} what stands there while nothing is pointed at */
export function invitation() {
  const hint = "Point at a token to see where it looks, or who looks at it. Click to hold it.";
  return [element("p", { class: "hint" }, hint)];
}

/**
 * @param {import("../payload.js").Layer} layer
 * @param {number} head
 * @param {Pointed} pointed
 * @param {boolean} held
 * @param {(pointed: Pointed) => void} reveal is called with a token that is clicked on
 * @returns {HTMLElement[]}
 */
export function reading(layer, head, { side, position }, held, reveal) {
  const looks = side === "query";
  const [own, others] = looks ? [layer.queries, layer.keys] : [layer.keys, layer.queries];
  const entries = looks ? layer.row(head, position) : layer.column(head, position);
  /** @param {number} at @param {boolean} query */
  const number = (at, query) => String(at + (query ? layer.offset : 0));
  const list = element("ol");
  for (const { position: other, weight } of entries) {
    const button = element("button", { type: "button" },
      tokenText(others[other]), element("span", { class: "number" }, number(other, !looks)),
      element("span", { class: "value" }, percent(weight)));
    button.style.setProperty("--value", weight.toFixed(4));
    button.addEventListener("click", () => reveal({ side: looks ? "key" : "query", position: other }));
    list.append(element("li", { "data-position": other, "data-weight": weight.toFixed(6) }, button));
  }
  return [
    element("h2", {}, tokenText(own[position]), element("span", { class: "number" }, number(position, looks)),
      element("span", { class: "verb" }, looks ? " looks at" : " is looked at by")),
    list,
    element("p", { class: "hint" }, remark(layer, head, looks, position, entries.length)),
    element("p", { class: "hint" }, held ? "Held. Click it again, or press Esc, to let go." : "Click to hold."),
  ];
}

/**
 * @param {import("../payload.js").Layer} layer
 * @param {number} head
 * @param {boolean} looks
 * @param {number} position
 * @param {number} listed
 */
function remark(layer, head, looks, position, listed) {
  if (!looks && !listed) return "No query has it among its heaviest keys.";
  if (!looks) return "Listed are the queries that have it among their heaviest keys.";
  if (!listed) return "It sees no key.";
  const rest = layer.rest(head, position);
  if (rest === 0) return "That is all of its weight.";
  return `The other ${percent(rest)} of its weight is not in this page.`;
}
