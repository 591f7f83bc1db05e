/** The head table: a row a head, to be sorted by any column; the first of them, or all, of which those in sight exist. */

import { element, target } from "../../dom.js";
import { heatOver } from "../../heat.js";
import { counted } from "../../numbers.js";
import { statistic, valueText } from "../../statistics.js";
import { spotsOf } from "../model/layout.js";

/** @typedef {import("../model/layout.js").Spot} Spot */
/** @typedef {import("../../heat.js").Heat} Heat */

const ROW_HEIGHT = 28;
const BEYOND_SIGHT = 12;
/** So many rows stand there at first, with nothing to scroll that would take the wheel from the page. */
const FIRST_ROWS = 20;

/**
 * @typedef {object} Sorted how the table is
 * @property {string[]} columns the statistics shown
 * @property {string} sort the statistic it is sorted by, or "head"
 * @property {boolean} rising
 */

export class HeadTable {
  #contents;
  #head = element("tr", { "aria-rowindex": 1 });
  #body = element("tbody");
  #table;
  #box;
  #all = false;
  #more = element("button", { type: "button", class: "more-rows" });
  /** @type {Spot[]} */
  #rows = [];
  /** @type {string[]} */
  #columns = [];
  /** @type {Record<string, Heat>} */
  #heats = {};
  /** @type {Map<number, HTMLElement>} the rows that exist, by their place */
  #there = new Map();
  #above = element("tr", { "aria-hidden": "true", class: "unseen" });
  #below = element("tr", { "aria-hidden": "true", class: "unseen" });
  #size = new ResizeObserver(() => this.#fill());

  /**
   * @param {import("../../payload.js").Contents} contents
   * @param {{open: (spot: Spot) => void, sort: (column: string) => void}} events
   */
  constructor(contents, events) {
    this.#contents = contents;
    this.#table = element("table", { "aria-label": "All heads" },
      element("thead", {}, this.#head), this.#body);
    this.#box = element("div", { class: "table-box", tabindex: 0, role: "region", "aria-label": "The head table" }, this.#table);
    this.root = element("div", {}, this.#box, this.#more);
    this.#box.addEventListener("scroll", () => this.#fill(), { passive: true });
    this.#size.observe(this.#box);
    this.#more.addEventListener("click", () => {
      this.#all = !this.#all;
      this.#unfold();
    });
    this.#table.addEventListener("click", (event) => {
      const column = target(event, "th[data-column]")?.dataset.column;
      const row = target(event, "tr[data-layer]");
      if (column) events.sort(column);
      else if (row) events.open({ layer: Number(row.dataset.layer), head: Number(row.dataset.head) });
    });
  }

  /** @param {Sorted} sorted @returns {void} */
  show({ columns, sort, rising }) {
    const { layers, statistics } = this.#contents;
    this.#columns = columns;
    this.#heats = Object.fromEntries(columns.map((name) => [name, heatOver(name, statistics[name])]));
    this.#rows = spotsOf(layers);
    if (sort !== "head") {
      /** @param {Spot} spot */
      const value = ({ layer, head }) => statistics[sort][layer][head] ?? (rising ? Infinity : -Infinity);
      this.#rows.sort((a, b) => (rising ? value(a) - value(b) : value(b) - value(a)) || 0);
    } else if (!rising) this.#rows.reverse();
    this.#head.replaceChildren(...["head", ...columns].map((name) => {
      const { title, says } = name === "head" ? { title: "layer · head", says: "in the model’s order" } : statistic(name);
      const state = name === sort ? (rising ? "ascending" : "descending") : "none";
      return element("th", { scope: "col", "data-column": name, "aria-sort": state, title: says },
        element("button", { type: "button" }, title));
    }));
    this.#table.setAttribute("aria-rowcount", String(this.#rows.length + 1));
    this.#unfold();
  }

  /** Shows the first rows, or makes a box of all. */
  #unfold() {
    const { length } = this.#rows;
    this.#more.hidden = length <= FIRST_ROWS;
    this.#more.textContent = this.#all ? `The first ${FIRST_ROWS}` : `All ${counted(length, "head")}`;
    this.#box.classList.toggle("scrolls", this.#all);
    this.#there.clear();
    this.#body.replaceChildren(this.#above, this.#below);
    this.#box.scrollTop = 0;
    this.#fill();
  }

  close() {
    this.#size.disconnect();
  }

  #fill() {
    const count = this.#all ? this.#rows.length : Math.min(FIRST_ROWS, this.#rows.length);
    const first = this.#all ? Math.max(0, Math.floor(this.#box.scrollTop / ROW_HEIGHT) - BEYOND_SIGHT) : 0;
    const last = this.#all ? Math.min(count, first + Math.ceil(this.#box.clientHeight / ROW_HEIGHT) + 2 * BEYOND_SIGHT)
      : count;
    for (const [at, row] of this.#there) {
      if (at >= first && at < last) continue;
      row.remove();
      this.#there.delete(at);
    }
    let after = this.#above;
    for (let at = first; at < last; at++) {
      let row = this.#there.get(at);
      if (!row) {
        row = this.#row(at);
        this.#there.set(at, row);
        after.after(row);
      }
      after = /** @type {HTMLTableRowElement} */ (row);
    }
    this.#above.style.height = `${first * ROW_HEIGHT}px`;
    this.#below.style.height = `${(count - last) * ROW_HEIGHT}px`;
  }

  /** @param {number} at */
  #row(at) {
    const { layer, head } = this.#rows[at];
    const { layers, statistics } = this.#contents;
    const cells = this.#columns.map((name) => {
      const value = statistics[name][layer][head];
      const cell = element("td", {}, valueText(statistics, name, layer, head));
      cell.style.setProperty("--heat", String(this.#heats[name].of(value) ?? 0));
      return cell;
    });
    const open = element("button", { type: "button", title: layers[layer].name },
      `${layers[layer].position} · ${head}`);
    return element("tr", { "aria-rowindex": at + 2, "data-layer": layer, "data-head": head },
      element("th", { scope: "row" }, open), ...cells);
  }
}
