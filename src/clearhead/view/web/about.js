/** What the page holds, what it left out, and what must not be read into it. */

import { element } from "./dom.js";

/** @typedef {import("./payload.js").Contents} Contents */

/** From here on no query has a rest that 8 bits can tell from nothing; see payload.py. */
const ALL = 1 - (0.5 / 255) ** 2;

/** @param {number} share @returns {string} in per cent, rounded down: what is left out is never hidden */
const least = (share) => `${(Math.floor(share * 1000) / 10).toFixed(1)}\u202f%`;

/** @param {Contents} contents */
function held({ share, live }) {
  if (live && !share) return "The heaviest keys of each query are listed. Maps are computed when you look, of all of the weight.";
  if (!share) return "No query lists a key.";
  if (share.worst >= ALL) return "All of the weight.";
  return `The heaviest keys of each query: ${least(share.mean)} of the weight on average, ` +
    `${least(share.worst)} where it is least. The rest was left out.`;
}

/** @param {Contents} contents @returns {HTMLElement} what is known of the run and of the page */
export function factList(contents) {
  const precision = "Weights have 8 bits: off by 0.4 points at most.";
  return factsAsList({ ...contents.facts, "In this page": held(contents), Precision: precision });
}

/** @param {Record<string, string>} facts by their names @returns {HTMLElement} */
export function factsAsList(facts) {
  return element("dl", {}, ...Object.entries(facts).map(([name, fact]) =>
    element("div", {}, element("dt", {}, name), element("dd", { dir: "auto" }, fact))));
}

/** @returns {HTMLElement[]} what must not be read into weights, and what one can do instead */
export function caution() {
  return [
    element("p", {},
      "A weight says where a head reads, not what it takes from there, nor whether the outcome hangs on it. ",
      "A head that looks somewhere may write nothing of it; another may matter at a glance of one per cent."),
    element("p", {},
      "Whether a head matters is a question to the model, not to its weights: switch the head off, or exchange what it " +
      "reads, and see whether the outcome changes. Clearhead has no such tests of faithfulness yet. What it has: ",
      element("code", {}, "clearhead compare"), " shows what changes in attention between two texts or two models; a ",
      "head’s score stands beside a uniform head’s; and ", element("code", {}, "ch.copying(model)"),
      " tells from a head’s own matrices whether it writes what it reads."),
  ];
}

/** @param {Contents} contents @returns {HTMLElement} */
export function about(contents) {
  return element("footer", { class: "about" },
    element("h2", {}, "About this page"),
    factList(contents),
    element("p", { class: "caution" },
      element("strong", {}, "Attention is not explanation."),
      " A weight says where a head reads, not what it takes from there, nor whether the outcome hangs on it."),
    element("p", { class: "keys-help" }));
}
