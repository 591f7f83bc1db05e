/** What changed: a line a head with how far its rows differ and what changed, sorted by any of it. */

import { element, target } from "./dom.js";
import { counted, plain } from "./numbers.js";
import { statistic } from "./statistics.js";

/** @typedef {import("./state.js").Place} Place */

/**
 * @typedef {object} Head
 * @property {number} layer
 * @property {string} name of the module
 * @property {number} head
 * @property {number | null} js_distance how far its rows differ
 * @property {string | null} most the share that changed most
 * @property {number | null} change of that share
 * @property {(number | null)[]} a one number a column
 * @property {(number | null)[]} b
 * @property {(number | null)[]} half of each column half the interval of its change; null where too few queries stand behind it
 * @property {[number, number][]} queries of each column over how many queries the two means are
 * @property {number | null} js_distance_stderr its standard error
 */

/**
 * @typedef {object} Contents
 * @property {string[]} names of the two that are compared
 * @property {Record<string, string>} facts
 * @property {string} by what heads are sorted by at first
 * @property {string[]} columns the statistics
 * @property {Head[]} heads
 * @property {import("./payload.js").Contents[] | null} runs what can be seen of each; null if nothing was kept
 */

const SHOWN_FIRST = 100;

/** What heads can be sorted by that is no statistic. @type {Record<string, {title: string, says: string}>} */
const ORDERS = {
  js_distance: {
    title: "rows differ",
    says: "Jensen–Shannon distance between a head’s rows: 0 the same, 1 no key in common",
  },
  change: { title: "what changed most", says: "the role or share whose mean changed most" },
};

/** @param {string} by */
export const told = (by) => ORDERS[by] ?? statistic(by);

/** The table of all heads, the largest changes first. */
export class Changes {
  #contents;
  #scale;
  #all = false;
  #lines = element("tbody");
  #what = element("th", { scope: "col" });
  #more = element("button", { type: "button", class: "more" });

  /** @param {Contents} contents @param {import("./state.js").State} state */
  constructor(contents, state) {
    this.#contents = contents;
    this.#scale = scales(contents);
    this.#more.addEventListener("click", () => {
      this.#all = true;
      state.go({});
    });
    this.#lines.addEventListener("click", (event) => {
      const row = target(event, "tr");
      if (row) state.go({ layer: Number(row.dataset.layer), head: Number(row.dataset.head) });
    });
    const compared = contents.heads.some((head) => head.js_distance !== null);
    this.root = element("div", { class: "changes" },
      element("table", { class: compared ? "" : "rowless" },
        element("thead", {}, element("tr", {},
          element("th", { scope: "col" }, "Head"),
          element("th", { scope: "col", class: "distance" }, "Rows differ"), this.#what)),
        this.#lines),
      this.#more);
  }

  /** @param {Place} place */
  update(place) {
    const sorted = ranking(this.#contents, place.by);
    const marked = sorted.findIndex((head) => head.layer === place.layer && head.head === place.head);
    const shown = this.#all || marked >= SHOWN_FIRST ? sorted : sorted.slice(0, SHOWN_FIRST);
    this.#what.textContent = place.by in ORDERS ? ORDERS.change.title : told(place.by).title;
    this.#lines.replaceChildren(...shown.map((head) => line(head, this.#contents, place, this.#scale)));
    this.#more.hidden = shown.length === sorted.length;
    this.#more.textContent = `All ${counted(sorted.length, "head")}`;
    this.#lines.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }
}

/** @param {Contents} contents @returns {Record<string, number[]>} what heads can be sorted by: by each, their sizes */
export function offered(contents) {
  /** @type {Record<string, number[]>} */
  const sizes = {};
  for (const by of [...Object.keys(ORDERS), ...contents.columns]) {
    const values = contents.heads.map((head) => size(head, by, contents));
    if (values.some((value) => value >= 0)) sizes[by] = values;
  }
  return sizes;
}

/** @param {Head} head @param {string} by @param {Contents} contents @returns {number} -1 where there is no number */
export function size(head, by, contents) {
  if (by === "js_distance") return head.js_distance ?? -1;
  if (by === "change") return head.change === null ? -1 : Math.abs(head.change);
  const [a, b] = pair(head, by, contents);
  return a === null || b === null ? -1 : Math.abs(b - a);
}

/** @param {Head} head @param {string} column @param {Contents} contents @returns {(number | null)[]} its two numbers */
function pair(head, column, contents) {
  const at = contents.columns.indexOf(column);
  return at < 0 ? [null, null] : [head.a[at], head.b[at]];
}

/**
 * What heads are sorted by: of a change the part that is certain, its size less half its interval.
 * @param {Head} head
 * @param {string} by
 * @param {Contents} contents
 */
function certain(head, by, contents) {
  const large = size(head, by, contents);
  if (large < 0) return -Infinity;
  const at = contents.columns.indexOf(by === "change" ? head.most ?? "" : by);
  return large - (at < 0 ? 0 : head.half[at] ?? Infinity);
}

/** @param {Contents} contents @param {string} by @returns {Head[]} */
export const ranking = (contents, by) =>
  [...contents.heads].sort((one, other) => certain(other, by, contents) - certain(one, by, contents) || 0);

/** @param {Contents} contents @returns {Record<string, number[]>} of each column the ends of its scale */
function scales(contents) {
  return Object.fromEntries(contents.columns.map((column, at) => {
    const values = contents.heads.flatMap(({ a, b }) => [a[at], b[at]]).filter((value) => value !== null);
    return [column, [Math.min(0, ...values), Math.max(0, ...values)]];
  }));
}

/** @param {Head} head @param {Contents} contents @param {Place} place @param {Record<string, number[]>} scale */
function line(head, contents, place, scale) {
  const column = place.by in ORDERS ? head.most : place.by;
  const distance = element("td", { class: "distance" });
  if (head.js_distance === null) distance.append("–");
  else {
    const track = element("span", { class: "track" });
    const largest = Math.max(...contents.heads.map((other) => other.js_distance ?? 0));
    track.style.setProperty("--value", (head.js_distance / (largest || 1)).toFixed(4));
    distance.append(track, element("span", { class: "value" }, plain(head.js_distance)));
    if (head.js_distance_stderr !== null) distance.title = `standard error ${plain(head.js_distance_stderr)}`;
  }
  return element("tr", {
    "data-layer": head.layer,
    "data-head": head.head,
    title: head.name,
    ...(head.layer === place.layer && head.head === place.head ? { "aria-current": "true" } : {}),
  },
    element("th", { scope: "row" }, `${head.layer}·${head.head}`),
    distance,
    element("td", {}, element("div", { class: "changed" },
      ...(column ? changed(head, column, contents, scale[column]) : ["–"]))));
}

/** @param {Head} head @param {string} column @param {Contents} contents @param {number[]} scale */
function changed(head, column, contents, [low, high]) {
  const [a, b] = pair(head, column, contents);
  const { title, write } = statistic(column);
  const index = contents.columns.indexOf(column);
  const half = head.half[index];
  const name = element("span", {
    class: "what",
    title: `over ${head.queries[index].join(" and ")} queries${half === null ? ": too few for an interval" : ""}`,
  }, title);
  if (a === null || b === null) return [name, "–"];
  const beam = element("span", { class: "beam" });
  /** @param {number} value */
  const at = (value) => (high > low ? (value - low) / (high - low) : 0).toFixed(4);
  beam.style.setProperty("--from", at(a));
  beam.style.setProperty("--to", at(b));
  return [name, beam, element("span", { class: "value" }, `${write(a)} → ${write(b)}${half ? ` ± ${write(half)}` : ""}`)];
}
