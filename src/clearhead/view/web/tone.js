/** The tone: whether colours stand for weights on a log scale or on a linear one, in every map, small and large. */

import { element } from "./dom.js";

/** @type {[string, string | null, string][]} */
const TONES = [
  ["Log", null, "Even steps of colour are even factors: weights of one in ten thousand are still seen"],
  ["Linear", "linear", "Even steps of colour are even steps of weight: only what is heavy is seen"],
];

/** @param {import("./state.js").State} state @returns {HTMLElement} */
export function toneSwitch(state) {
  const group = element("div", { class: "switch tone", role: "group", "aria-label": "Scale of the colours" });
  for (const [title, tone, says] of TONES) {
    const button = element("button", { type: "button", title: says }, title);
    button.addEventListener("click", () => state.go({ tone }));
    group.append(button);
  }
  return group;
}

/** @param {HTMLElement} group @param {import("./state.js").Placed} place marks the one that is in force */
export function pressTone(group, { tone }) {
  [...group.children].forEach((button, n) => button.setAttribute("aria-pressed", String(TONES[n][1] === tone)));
}
