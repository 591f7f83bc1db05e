/** The places that a page has: any wish, however old its link, becomes the nearest of them. */

import { named } from "./statistics.js";
import { views, viewsOf } from "./views/index.js";

/**
 * @param {Record<string, unknown>} wish
 * @param {import("./payload.js").Payload} payload
 * @returns {import("./state.js").Placed}
 */
export function settle(wish, payload) {
  const { layers, statistics, texts } = payload.contents;
  const { roles, others } = named(statistics);
  const names = [...roles, ...others];
  const by = names.find((name) => name === wish.by) ?? names[0] ?? "";
  // Without a wish, the head that plays the role most clearly.
  const start = roles.includes(by) ? ranked(statistics[by])[0] : { layer: 0, head: 0 };
  const layer = whole(wish.layer, layers.length) ?? start.layer;
  const { heads, queries, keys } = layers[layer];
  const query = inside(wish.query, texts[queries].length);
  const there = Object.keys(viewsOf(payload));
  // Who names a head and no view wants to see that head.
  const first = there.find((name) => name === "head" && (wish.layer ?? wish.head ?? null) !== null) ?? there[0];
  /** @type {import("./state.js").Place} */
  const place = {
    view: there.find((name) => name === wish.view) ?? first,
    layer,
    head: whole(wish.head, heads) ?? (layer === start.layer ? start.head : 0),
    query,
    key: query === null ? inside(wish.key, texts[keys].length) : null,
    by,
    theme: wish.theme === "light" || wish.theme === "dark" ? wish.theme : null,
  };
  const own = Object.values(views).map((view) => view.settle?.(wish, place, payload) ?? {});
  return Object.assign({}, ...own, place);
}

/**
 * @param {(number | null)[][]} values as [layer][head]
 * @returns {{layer: number, head: number, value: number}[]} the heads that have one, largest first
 */
export function ranked(values) {
  return values
    .flatMap((row, layer) => row.map((value, head) => ({ layer, head, value: value ?? NaN })))
    .filter(({ value }) => !Number.isNaN(value))
    .sort((a, b) => b.value - a.value);
}

/** @param {unknown} value @param {number} count @returns {number | null} the nearest of 0 … count - 1 */
export function whole(value, count) {
  const number = value === null || value === "" ? NaN : Number(value);
  return Number.isInteger(number) ? Math.min(Math.max(0, number), count - 1) : null;
}

/** @param {unknown} value @param {number} count @returns {number | null} the value if it is one of them */
export function inside(value, count) {
  const number = whole(value, count);
  return number === Number(value) ? number : null;
}
