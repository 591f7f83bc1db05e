/** What the page holds, what it left out, and what must not be read into it. */

import { element } from "./dom.js";

/** @param {number} share @returns {string} in per cent, rounded down: what is left out is never hidden */
const least = (share) => `${(Math.floor(share * 1000) / 10).toFixed(1)}\u202f%`;

/** @param {import("./payload.js").Contents["share"]} share */
function held(share) {
  if (!share) return "No query lists a key.";
  if (share.worst > 0.9999) return "All of the weight.";
  return `The heaviest keys of each query: ${least(share.mean)} of the weight on average, ` +
    `${least(share.worst)} where it is least. The rest was left out.`;
}

/**
 * @param {import("./payload.js").Contents} contents
 * @returns {HTMLElement}
 */
export function about({ facts, share }) {
  const list = element("dl");
  const precision = "Weights have 8 bits: off by 0.4 points at most.";
  const told = { ...facts, "In this page": held(share), Precision: precision };
  for (const [name, fact] of Object.entries(told)) {
    list.append(element("div", {}, element("dt", {}, name), element("dd", { dir: "auto" }, fact)));
  }
  return element("footer", { class: "about" },
    element("h2", {}, "About this page"),
    list,
    element("p", { class: "caution" },
      element("strong", {}, "Attention is not explanation."),
      " A weight says where a head reads, not what it takes from there, nor whether the outcome hangs on it."),
    element("p", { class: "keys-help" },
      "← → head · ⇧ ↑ ↓ layer · ↑ ↓ token · Enter holds it · Esc lets go"));
}
