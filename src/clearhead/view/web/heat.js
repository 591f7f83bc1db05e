/** Heat: heads coloured by a statistic, from the least of them to the most. */

import { element } from "./dom.js";
import { ranked } from "./places.js";
import { inPlainWords, named, statistic } from "./statistics.js";

/**
 * @typedef {object} Heat
 * @property {{layer: number, head: number, value: number}[]} order the heads that have a number, largest first
 * @property {number} low
 * @property {number} high
 * @property {(value: number | null) => number | null} of from 0 to 1, null for no number
 */

/** @param {string} by @param {(number | null)[][]} values as [layer][head] @returns {Heat} */
export function heatOver(by, values) {
  const order = ranked(values);
  const least = order.at(-1)?.value ?? 0;
  const high = order[0]?.value ?? 0;
  const low = statistic(by).anyZero ? least : Math.min(0, least);
  return {
    order, low, high,
    of: (value) => (value === null ? null : high > low ? (value - low) / (high - low) : 0),
  };
}

/** @param {(value: number) => string} write @param {Heat} scale @returns {(Node | string)[]} the scale between its ends */
export function scaleLine(write, { low, high }) {
  return [write(low), element("span", { class: "ramp" }), write(high)];
}

/**
 * A list of the statistics, to choose one.
 * @param {import("./payload.js").Payload} payload
 * @param {import("./state.js").State} state
 * @param {Record<string, string>} attributes
 */
export function statisticPicker({ contents }, state, attributes) {
  const { roles, others } = named(contents.statistics);
  const picker = element("select", attributes, optionGroup("What heads do", roles), optionGroup("How they look", others));
  picker.addEventListener("change", () => state.go({ by: picker.value }));
  return picker;
}

/** @param {string} label @param {string[]} names */
function optionGroup(label, names) {
  return element("optgroup", { label, hidden: !names.length },
    ...names.map((name) => element("option", { value: name }, inPlainWords(name))));
}
