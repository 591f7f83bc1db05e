/** The reading: a token's weights in numbers, heaviest first, heads side by side, and how much is not shown. */

import { element } from "../../dom.js";
import { percent } from "../../numbers.js";
import { tokenText } from "../../tokens.js";

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
 * @property {boolean} among whether only some sentences count
 * @property {boolean} pinned
 * @property {(pointed: Pointed) => void} reveal is called with a token that is clicked on
 */

/**
 * @param {Pointed} pointed
 * @param {Read} read
 * @returns {HTMLElement[]}
 */
export function reading(pointed, read) {
  const { side, position } = pointed;
  const { sides: { queries, keys }, heads, reveal } = read;
  const looks = side === "query";
  const [own, others] = looks ? [queries, keys] : [keys, queries];
  const entries = merged(heads.map(({ weights }) => weights.entries(pointed)));
  const list = element("ol");
  list.style.setProperty("--columns", String(heads.length));
  for (const { position: other, weights } of entries.slice(0, READ)) {
    const values = weights.map((weight, at) => {
      const value = element("span", { class: "value" }, Number.isNaN(weight) ? "–" : percent(weight));
      value.style.setProperty("--value", (weight || 0).toFixed(4));
      value.style.setProperty("--colour", `var(--head-${at})`);
      return value;
    });
    const button = element("button", { type: "button" },
      tokenText(others.texts[other]), element("span", { class: "number" }, String(others.numbers[other])), ...values);
    if (heads.length === 1) button.style.setProperty("--value", weights[0].toFixed(4));
    button.addEventListener("click", () => reveal({ side: looks ? "key" : "query", position: other }));
    list.append(element("li", {
      "data-position": other, "data-weight": weights[0].toFixed(6),
      "data-weights": weights.map((weight) => weight.toFixed(6)).join(" "),
    }, button));
  }
  list.classList.toggle("several", heads.length > 1);
  const names = heads.map(({ head }, at) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = `var(--head-${at})`;
    return element("span", {}, swatch, String(head));
  });
  return [
    element("h2", {}, tokenText(own.texts[position]), element("span", { class: "number" }, String(own.numbers[position])),
      element("span", { class: "verb" }, looks ? " looks at" : " is looked at by")),
    ...(heads.length > 1 ? [element("p", { class: "columns-of", "aria-label": "Heads" }, ...names)] : []),
    list,
    ...remarks(pointed, read, entries.length).map((remark) => element("p", { class: "hint" }, remark)),
  ];
}

/**
 * @param {import("../../payload.js").Entry[][]} lists of each head
 * @returns {{position: number, weights: number[]}[]} heaviest first; NaN where a head lists none
 */
function merged(lists) {
  /** @type {Map<number, number[]>} */
  const found = new Map();
  lists.forEach((entries, head) => {
    for (const { position, weight } of entries) {
      const weights = found.get(position) ?? new Array(lists.length).fill(NaN);
      weights[head] = weight;
      found.set(position, weights);
    }
  });
  const heaviest = (/** @type {number[]} */ weights) => Math.max(...weights.map((weight) => weight || 0));
  return [...found].map(([position, weights]) => ({ position, weights }))
    .sort((a, b) => heaviest(b.weights) - heaviest(a.weights));
}

/** @param {Pointed} pointed @param {Read} read @param {number} listed @returns {string[]} */
function remarks({ side, position }, { heads, among }, listed) {
  const more = listed > READ ? [`The ${READ} heaviest of ${listed.toLocaleString("en")}.`] : [];
  const where = among ? " in the sentences chosen" : "";
  if (side === "key") {
    return [...more, listed ? `Listed are the queries${where} that have it among their heaviest keys.`
      : `No query${where} has it among its heaviest keys.`];
  }
  return [...more, ...heads.map(({ head, weights }) => {
    const [it, its] = heads.length > 1 ? [`In head ${head} it`, `Of head ${head}, the`] : ["It", "The"];
    const rest = weights.rests[position];
    if (weights.starts[position] === weights.starts[position + 1] && rest === 0) return `${it} sees no key.`;
    if (rest === 0) return `${its === "The" ? "That" : `Of head ${head}, that`} is all of its weight.`;
    return `${its} other ${percent(rest)} of its weight is ${among ? "on other sentences, or " : ""}not in this page.`;
  })];
}
