/** What the head view keeps in the address: further heads, pins, the least line, words, sentences, keys left out. */

import { TOLD_APART } from "../../colours.js";
import { inside } from "../../places.js";

/** @typedef {import("./lines.js").Pointed} Pointed */

/** The most heads that are chosen one by one; beyond that there are only all of a layer. */
export const HEADS = TOLD_APART;

/**
 * @param {Record<string, unknown>} wish
 * @param {import("../../state.js").Place} place
 * @param {import("../../payload.js").Payload} payload
 * @returns {Record<string, string | number | null>}
 */
export function settleHead(wish, place, { contents }) {
  const { layers, texts, words, segments } = contents;
  const { heads, queries, keys } = layers[place.layer];
  const also = parted(wish.also).map((head) => inside(head, heads))
    .filter((head, at, all) => head !== null && head !== place.head && all.indexOf(head) === at);
  const pins = parted(wish.pins).filter((pin, at, all) => {
    const count = { q: texts[queries].length, k: texts[keys].length }[pin[0]] ?? 0;
    return inside(pin.slice(1), count) !== null && all.indexOf(pin) === at;
  });
  const without = parted(wish.without).map((key) => inside(key, texts[keys].length))
    .filter((key, at, all) => key !== null && all.indexOf(key) === at);
  const least = Number(wish.least);
  return {
    also: also.slice(0, HEADS - 1).join(".") || null,
    all: wish.all === "1" && heads > 1 ? "1" : null,
    without: without.join(".") || null,
    pins: pins.join(".") || null,
    least: least > 0 && least <= 100 ? least : null,
    units: wish.units === "words" && words?.some(Boolean) ? "words" : null,
    between: segments?.some(Boolean) && /^(within|across|\d+\.\d+)$/.test(String(wish.between)) ? String(wish.between) : null,
  };
}

/**
 * @param {import("../../state.js").Placed} place
 * @param {number} count how many the layer has
 * @returns {number[]} the heads that are shown, the chosen one first, or all in their order
 */
export const headsOf = (place, count) => (place.all ? Array.from({ length: count }, (_, head) => head)
  : [place.head, ...parted(place.also).map(Number)]);

/** @param {import("../../state.js").Placed} place @returns {number[]} the tokens that are left out as keys */
export const withoutOf = ({ without }) => parted(without).map(Number);

/**
 * @param {import("../../state.js").Placed} place
 * @param {number} key a token, to be left out, or not any longer
 * @returns {Record<string, unknown>} what of the place says so
 */
export function asLeftOut(place, key) {
  const before = withoutOf(place);
  const after = before.includes(key) ? before.filter((other) => other !== key) : [...before, key].sort((a, b) => a - b);
  return { without: after.join(".") || null };
}

/** @param {import("../../state.js").Placed} place @returns {Pointed[]} the tokens that are pinned, the first one first */
export function pinsOf({ query, key, pins }) {
  /** @type {Pointed[]} */
  const first = query !== null ? [{ side: "query", position: query }] : key !== null ? [{ side: "key", position: key }] : [];
  return [...first, ...parted(pins).map((pin) => /** @type {Pointed} */ ({
    side: pin[0] === "q" ? "query" : "key", position: Number(pin.slice(1)),
  }))];
}

/** @param {Pointed[]} pinned @returns {Record<string, unknown>} what of the place says so */
export function asPins([first, ...others]) {
  return {
    query: first?.side === "query" ? first.position : null,
    key: first?.side === "key" ? first.position : null,
    pins: others.map(({ side, position }) => side[0] + position).join(".") || null,
  };
}

/**
 * @param {string | null} between
 * @param {import("./units.js").Sides} sides
 * @returns {((query: number, key: number) => boolean) | null} which pairs count; null if all do
 */
export function countsBetween(between, { queries, keys }) {
  const [of, at] = [queries.sentences, keys.sentences];
  if (!between || !of || !at) return null;
  if (between === "within") return (query, key) => of[query] === at[key];
  if (between === "across") return (query, key) => of[query] !== at[key];
  const [from, to] = between.split(".").map(Number);
  return (query, key) => of[query] === from && at[key] === to;
}

/** @param {unknown} list "3.7" @returns {string[]} */
const parted = (list) => (list ? String(list).split(".") : []);
