/** A comparison: a grid of all heads, and a line a head with how far its rows differ and what changed. */

import { element, target } from "./dom.js";
import { counted, percent, plain } from "./numbers.js";
import { State } from "./state.js";
import { statistic } from "./statistics.js";
import { themeButton } from "./theme.js";

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
 */

/**
 * @typedef {object} Contents
 * @property {string[]} names of the two that are compared
 * @property {Record<string, string>} facts
 * @property {string} by what heads are sorted by at first
 * @property {string[]} columns the statistics
 * @property {Head[]} heads
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
const told = (by) => ORDERS[by] ?? statistic(by);

/** @param {import("./frame.js").Frame} frame @param {Contents} contents */
export function showComparison({ root, themed, address }, contents) {
  const state = new State((wish) => settleOn(wish, contents), address);
  const lines = element("tbody");
  const says = element("p", { class: "says" });
  const more = element("button", { type: "button", class: "more" });
  const by = element("select", { id: "by" }, ...Object.keys(offered(contents)).map((name) =>
    element("option", { value: name }, told(name).title)));
  by.addEventListener("change", () => state.go({ by: by.value }));
  const grid = gridOfHeads(contents, state);
  const what = element("th", { scope: "col" });
  let all = false;

  /** @param {Place} place */
  const update = (place) => {
    const sorted = ranking(contents, place.by);
    const marked = sorted.findIndex((head) => head.layer === place.layer && head.head === place.head);
    const shown = all || marked >= SHOWN_FIRST ? sorted : sorted.slice(0, SHOWN_FIRST);
    by.value = place.by;
    says.textContent = told(place.by).says;
    what.textContent = place.by in ORDERS ? ORDERS.change.title : told(place.by).title;
    const scale = scales(contents);
    lines.replaceChildren(...shown.map((head) => line(head, contents, place, scale)));
    more.hidden = shown.length === sorted.length;
    more.textContent = `All ${counted(sorted.length, "head")}`;
    grid.update(place);
    lines.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
    root.dataset.at = `#${state.address()}`;
  };
  more.addEventListener("click", () => {
    all = true;
    state.go({});
  });
  lines.addEventListener("click", (event) => {
    const row = target(event, "tr");
    if (row) state.go({ layer: Number(row.dataset.layer), head: Number(row.dataset.head) });
  });

  const [a, b] = contents.names;
  root.replaceChildren(
    element("header", { class: "masthead" },
      element("div", { class: "names" },
        element("p", { class: "wordmark" }, "Clearhead"),
        element("h1", { dir: "auto" }, a, element("span", { class: "against" }, " → "), b),
        element("p", { class: "size" }, counted(contents.heads.length, "head"))),
      themeButton(state, themed)),
    element("div", { class: "body comparison" },
      element("section", { class: "chooser", "aria-label": "All heads" },
        element("div", { class: "pick by" }, element("label", { for: "by" }, "Sorted by"), by), says, grid.root),
      element("main", { class: "changes" },
        element("table", { class: contents.heads.every((head) => head.js_distance === null) ? "rowless" : "" },
          element("thead", {}, element("tr", {},
            element("th", { scope: "col" }, "Head"), element("th", { scope: "col", class: "distance" }, "Rows differ"), what)),
          lines),
        more,
        facts(contents.facts))));
  state.follow(update);
}

/** @param {Contents} contents @returns {Record<string, number[]>} what heads can be sorted by: by each, their sizes */
function offered(contents) {
  /** @type {Record<string, number[]>} */
  const sizes = {};
  for (const by of [...Object.keys(ORDERS), ...contents.columns]) {
    const values = contents.heads.map((head) => size(head, by, contents));
    if (values.some((value) => value >= 0)) sizes[by] = values;
  }
  return sizes;
}

/** @param {Head} head @param {string} by @param {Contents} contents @returns {number} -1 where there is no number */
function size(head, by, contents) {
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

/** @param {Contents} contents @param {string} by @returns {Head[]} */
const ranking = (contents, by) =>
  [...contents.heads].sort((one, other) => size(other, by, contents) - size(one, by, contents));

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
  const name = element("span", { class: "what" }, title);
  if (a === null || b === null) return [name, "–"];
  const beam = element("span", { class: "beam" });
  /** @param {number} value */
  const at = (value) => (high > low ? (value - low) / (high - low) : 0).toFixed(4);
  beam.style.setProperty("--from", at(a));
  beam.style.setProperty("--to", at(b));
  return [name, beam, element("span", { class: "value" }, `${write(a)} → ${write(b)}`)];
}

/** @param {Contents} contents @param {State} state */
function gridOfHeads(contents, state) {
  /** @type {Map<number, Head[]>} */
  const layers = new Map();
  for (const head of contents.heads) layers.set(head.layer, [...(layers.get(head.layer) ?? []), head]);
  const root = element("div", { class: "heads", role: "grid", "aria-label": "All heads" });
  root.style.setProperty("--heads", String(Math.max(...[...layers.values()].map((heads) => heads.length))));
  /** @type {Map<Head, HTMLElement>} */
  const cells = new Map();
  for (const [layer, heads] of layers) {
    const row = element("div", { role: "row" },
      element("span", { role: "rowheader", title: heads[0].name }, String(layer)));
    for (const head of heads) {
      const cell = element("button", { type: "button", role: "gridcell" });
      cell.addEventListener("click", () => state.go({ layer: head.layer, head: head.head }));
      cells.set(head, cell);
      row.append(cell);
    }
    root.append(row);
  }
  /** @param {Place} place */
  const update = (place) => {
    const sizes = contents.heads.map((head) => size(head, place.by, contents));
    const largest = Math.max(...sizes);
    contents.heads.forEach((head, index) => {
      const cell = /** @type {HTMLElement} */ (cells.get(head));
      cell.style.setProperty("--heat", String(largest > 0 ? Math.max(0, sizes[index]) / largest : 0));
      cell.toggleAttribute("data-none", sizes[index] < 0);
      cell.setAttribute("aria-selected", String(head.layer === place.layer && head.head === place.head));
      cell.title = `layer ${head.layer}, head ${head.head}: ${sizes[index] < 0 ? "no number" : plain(sizes[index])}`;
    });
  };
  return { root, update };
}

/** @param {Record<string, string>} known */
function facts(known) {
  const list = element("dl");
  for (const [name, value] of Object.entries(known)) {
    list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  }
  return element("section", { class: "about" }, list);
}

/** @param {Record<string, unknown>} wish @param {Contents} contents @returns {Place} the nearest that there is */
function settleOn(wish, contents) {
  const { heads } = contents;
  const by = Object.keys(offered(contents)).find((name) => name === wish.by) ?? contents.by;
  const wanted = heads.find(({ layer, head }) => layer === Number(wish.layer) && head === Number(wish.head));
  const { layer, head } = wanted ?? ranking(contents, by)[0];
  const theme = wish.theme === "light" || wish.theme === "dark" ? wish.theme : null;
  return { view: "comparison", layer, head, query: null, key: null, by, theme };
}
