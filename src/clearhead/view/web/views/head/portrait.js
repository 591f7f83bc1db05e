/** A head in numbers: its roles, each beside what a uniform head would score, and its other statistics. */

import { element } from "../../dom.js";
import { habit, named, statistic, uniform, valueText } from "../../statistics.js";

/** @typedef {Record<string, (number | null)[][]>} Table */

/**
 * @param {Table} table
 * @param {number} layer
 * @param {number} head
 * @returns {HTMLElement}
 */
export function portrait(table, layer, head) {
  const { roles, others } = named(table);
  const made = element("div", { class: "portrait" });
  const bars = roles.map((role) => bar(role, table[role][layer][head], uniform(table, role, layer, head)));
  if (bars.length) {
    const clear = habit(table, layer, head);
    if (clear) made.append(element("p", { class: "does" }, `${statistic(clear.role).does}.`));
    made.append(element("dl", { class: "roles" }, ...bars),
      element("p", { class: "note" }, "Each is the mean over the tokens that have something of the kind to look at, so " +
        "that together they may be more than all. The mark is where a head would be that looks everywhere alike."));
  }
  const plain = others.flatMap((name) => {
    const { title, says } = statistic(name);
    if (table[name][layer][head] === null) return [];
    const value = valueText(table, name, layer, head);
    return [element("div", { title: says }, element("dt", {}, title), element("dd", {}, value))];
  });
  if (plain.length) made.append(element("dl", { class: "others" }, ...plain));
  return made;
}

/**
 * @param {string} role
 * @param {number | null} value
 * @param {number | null} chance
 */
function bar(role, value, chance) {
  const { title, says, write } = statistic(role);
  const track = element("span", { class: "track" });
  const told = value === null ? "none in this text" : write(value);
  if (value !== null) track.style.setProperty("--value", String(value));
  if (chance !== null) track.style.setProperty("--chance", String(chance));
  track.toggleAttribute("data-chance", chance !== null);
  const hint = chance === null ? says : `${says}; a uniform head: ${write(chance)}`;
  return element("div", { title: hint, "data-role": role },
    element("dt", {}, title), element("dd", {}, track, element("span", { class: "value" }, told)));
}
