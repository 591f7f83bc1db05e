/** The lists of tokens from which a query and a key are chosen: all of them, or of many those that matter. */

import { element } from "../../dom.js";
import { percent } from "../../numbers.js";
import { spelled, tokenText } from "../../tokens.js";

const SHOWN = 400; // Of more tokens than these, those around the chosen one and the heaviest are listed.
const AROUND = 30;
export const HEAVIEST = 60;

/** @param {string} label */
export function tokenList(label) {
  return element("div", { class: "token-list", role: "listbox", "aria-label": label });
}

/**
 * @param {HTMLElement} list
 * @param {number[]} positions
 * @param {string[]} texts
 * @param {number} offset
 * @param {number} chosen
 * @param {Map<number, number> | null} weights
 */
export function fillList(list, positions, texts, offset, chosen, weights) {
  const chips = positions.map((position) => {
    const weight = weights?.get(position);
    const number = position + offset;
    const told = weight === undefined ? "" : `, ${percent(Math.min(1, weight))}`;
    const chip = element("span", { role: "option", "data-position": position,
      tabindex: position === chosen ? 0 : -1, "aria-label": `${number}: ${spelled(texts[position])}${told}`,
      title: `${number}${told}` }, tokenText(texts[position]));
    chip.setAttribute("aria-selected", String(position === chosen));
    if (weight !== undefined) chip.style.setProperty("--weight", weight.toFixed(4));
    return chip;
  });
  list.replaceChildren(...chips);
  const at = chips[positions.indexOf(chosen)];
  if (!at) return;
  if (list.dataset.focus) at.focus({ preventScroll: true });
  delete list.dataset.focus;
  list.scrollTop = at.offsetTop - list.offsetTop - list.clientHeight / 2;
}

/** @param {number} position @param {number} count @returns {number[]} all, or those around it where there are many */
export function queriesListed(position, count) {
  const all = count <= SHOWN;
  const first = all ? 0 : Math.max(0, position - SHOWN / 4);
  const last = all ? count : Math.min(count, position + SHOWN / 4);
  return Array.from({ length: last - first }, (_, n) => first + n);
}

/** @param {Map<number, number>} weights @param {number} key @returns {number[]} all keys, or the heaviest and those around */
export function keysListed(weights, key) {
  const keys = [...weights.keys()];
  if (keys.length <= SHOWN) return keys;
  const heavy = [...weights].sort((a, b) => b[1] - a[1]).slice(0, HEAVIEST).map(([position]) => position);
  const wanted = new Set([...heavy, ...keys.filter((other) => Math.abs(other - key) <= AROUND)]);
  return keys.filter((position) => wanted.has(position));
}
