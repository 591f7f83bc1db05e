/** The reading: a token's weights in numbers, heaviest first, heads side by side, and how much is not shown. */

import { element } from "../../dom.js";
import { percent } from "../../numbers.js";
import { tokenText } from "../../tokens.js";
import { HEADS } from "./choices.js";

/** @typedef {import("./lines.js").Pointed} Pointed */
/** @typedef {import("./weights.js").Weights} Weights */

const READ = 100; // lines of a list; a sink is looked at by every token

/** @returns {HTMLElement[]} what stands there while nothing is pointed at */
export function invitation() {
  const hint = "Point at a token to see where it looks, or who looks at it. Click to hold it, and others beside it.";
  return [element("p", { class: "hint" }, hint)];
}

/**
 * @typedef {object} Read what is read from
 * @property {import("./units.js").Sides} sides
 * @property {{head: number, weights: Weights}[]} heads in the order of their colours
 * @property {string[]} colours
 * @property {boolean} among whether only some sentences count
 * @property {boolean} live whether maps of all weights can be had
 * @property {Set<number>} gone the keys that are left out
 * @property {boolean} pinned
 * @property {(pointed: Pointed) => void} reveal is called with a token that is clicked on
 * @property {(key: number) => void} leaveOut is called with a key that is to be left out, or not any longer
 */

/**
 * @param {Pointed} pointed
 * @param {Read} read
 * @returns {HTMLElement[]}
 */
export function reading(pointed, read) {
  const { side, position } = pointed;
  const { sides: { queries, keys }, heads, colours, reveal } = read;
  const looks = side === "query";
  const [own, others] = looks ? [queries, keys] : [keys, queries];
  const many = heads.length > HEADS;
  const entries = merged(heads.map(({ weights }) => weights.entries(pointed)), many ? meanOf : mostOf);
  const list = element("ol", { class: many ? "many" : heads.length > 1 ? "several" : "" });
  list.style.setProperty("--columns", String(heads.length));
  for (const { position: other, weights } of entries.slice(0, READ)) {
    const button = element("button", { type: "button" },
      tokenText(others.texts[other]), element("span", { class: "number" }, String(others.numbers[other])),
      ...(many ? [headStrip(heads, weights, colours), element("span", { class: "value" }, percent(meanOf(weights)))]
        : valuesOf(weights, colours)));
    if (heads.length === 1) button.style.setProperty("--value", weights[0].toFixed(4));
    button.addEventListener("click", () => reveal({ side: looks ? "key" : "query", position: other }));
    list.append(element("li", {
      "data-position": other, "data-weight": (many ? meanOf(weights) : weights[0]).toFixed(6),
      "data-weights": weights.map((weight) => weight.toFixed(6)).join(" "),
    }, button));
  }
  const names = heads.map(({ head }, at) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = colours[at];
    return element("span", {}, swatch, String(head));
  });
  return [
    element("h2", {}, tokenText(own.texts[position]), element("span", { class: "number" }, String(own.numbers[position])),
      element("span", { class: "verb" }, looks ? " looks at" : " is looked at by")),
    ...(heads.length > 1 && !many ? [element("p", { class: "columns-of", "aria-label": "Heads" }, ...names)] : []),
    list,
    ...remarks(pointed, read, entries.length).map((remark) => element("p", { class: "hint" }, remark)),
    ...(looks || !read.pinned ? [] : [leaving(position, read)]),
  ];
}

/** @param {number[]} weights of each head @param {string[]} colours */
function valuesOf(weights, colours) {
  return weights.map((weight, at) => {
    const value = element("span", { class: "value" }, Number.isNaN(weight) ? "–" : percent(weight));
    value.style.setProperty("--value", (weight || 0).toFixed(4));
    value.style.setProperty("--colour", colours[at]);
    return value;
  });
}

/** A cell a head, as strong as its weight. @param {{head: number}[]} heads @param {number[]} weights @param {string[]} colours */
function headStrip(heads, weights, colours) {
  return element("span", { class: "head-strip", "aria-hidden": "true" }, ...heads.map(({ head }, at) => {
    const weight = weights[at] || 0;
    const cell = element("i", { title: `head ${head}: ${percent(weight)}` });
    cell.style.background = `color-mix(in oklab, var(--low), ${colours[at]} ${(100 * Math.sqrt(Math.min(1, weight))).toFixed(1)}%)`;
    return cell;
  }));
}

/** @param {number} key @param {Read} read @returns {HTMLElement} a button that leaves a key out, or takes it back */
function leaving(key, { gone, leaveOut }) {
  const button = element("button", { type: "button", class: "leave-out" },
    gone.has(key) ? "Take this key back in" : "Leave this key out");
  button.title = "The weights on the other keys are then scaled to sum to 100\u202f%.";
  button.addEventListener("click", () => leaveOut(key));
  return button;
}

/** @param {number[]} weights NaN where a head lists none */
const mostOf = (weights) => Math.max(...weights.map((weight) => weight || 0));
/** @param {number[]} weights NaN where a head lists none */
const meanOf = (weights) => weights.reduce((sum, weight) => sum + (weight || 0), 0) / weights.length;

/**
 * @param {import("../../payload.js").Entry[][]} lists of each head
 * @param {(weights: number[]) => number} size by which they are sorted
 * @returns {{position: number, weights: number[]}[]} heaviest first; NaN where a head lists none
 */
function merged(lists, size) {
  /** @type {Map<number, number[]>} */
  const found = new Map();
  lists.forEach((entries, head) => {
    for (const { position, weight } of entries) {
      const weights = found.get(position) ?? new Array(lists.length).fill(NaN);
      weights[head] = weight;
      found.set(position, weights);
    }
  });
  return [...found].map(([position, weights]) => ({ position, weights }))
    .sort((a, b) => size(b.weights) - size(a.weights));
}

/** @param {Pointed} pointed @param {Read} read @param {number} listed @returns {string[]} */
function remarks({ side, position }, read, listed) {
  const { heads, among } = read;
  const more = listed > READ ? [`The ${READ} heaviest of ${listed.toLocaleString("en")}.`] : [];
  const where = among ? " in the sentences chosen" : "";
  const many = heads.length > HEADS;
  const mean = many ? [`Means over the ${heads.length} heads, a coloured cell each.`] : [];
  if (side === "key") {
    if (read.gone.has(position)) return ["This key is left out."];
    return [...more, ...mean, listed ? `Listed are the queries${where} that have it among their heaviest keys.`
      : `No query${where} has it among its heaviest keys.`];
  }
  const told = heads.map(({ head, weights }) => ({ head, rest: weights.rests[position], gone: weights.gone?.[position] ?? 0,
    empty: weights.starts[position] === weights.starts[position + 1] }));
  return [...more, ...mean, ...(many ? [averaged(told)] : told).flatMap(({ head, rest, gone, empty }) => {
    const [it, its, that] = head === null ? ["It", "The", "That"]
      : heads.length > 1 ? [`In head ${head} it`, `Of head ${head}, the`, `Of head ${head}, that`] : ["It", "The", "That"];
    const scaled = gone ? [`${percent(gone)} of its weight is left out; the others are scaled to sum to 100\u202f%.`] : [];
    if (empty && rest === 0) return gone ? [`${it} has no weight on other keys than those left out.`] : [`${it} sees no key.`];
    if (rest === 0) return [...scaled, `${that} is all of its weight.`];
    return [...scaled, `${its} other ${percent(rest)} of its weight is ${among ? "on other sentences, or " : ""}${unlisted(read)}`];
  })];
}

/** @param {Read} read @returns {string} where the weight is that is on no listed key */
const unlisted = ({ live }) => (live ? "on lighter keys, which the map shows." : "on lighter keys, which this page does not list.");

/** @typedef {{head: number | null, rest: number, gone: number, empty: boolean}} Left what of a query's weight is not listed */

/** @param {Left[]} left of each head @returns {Left} */
function averaged(left) {
  const mean = (/** @type {"rest" | "gone"} */ which) => left.reduce((sum, one) => sum + one[which], 0) / left.length;
  return { head: null, rest: mean("rest"), gone: mean("gone"), empty: left.every(({ empty }) => empty) };
}
