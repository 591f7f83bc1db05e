/** The grid of all heads: a row a layer, coloured by a number, one head chosen, walked by arrow keys. */

import { element, focused, target } from "./dom.js";

/** @typedef {{layer: number, head: number}} Spot a head */

export class HeadGrid {
  #go;
  /** @type {HTMLElement[][]} as [layer][head] */
  #cells;
  /** @type {Spot} */
  #chosen = { layer: 0, head: 0 };
  root = element("div", { class: "heads", role: "grid", "aria-label": "All heads" });

  /**
   * @param {{name: string, title: string, heads: number}[]} layers
   * @param {(spot: Spot) => void} go
   */
  constructor(layers, go) {
    this.#go = go;
    this.root.style.setProperty("--heads", String(Math.max(...layers.map(({ heads }) => heads))));
    this.#cells = layers.map(({ name, title, heads }, layer) => {
      const cells = Array.from({ length: heads }, (_, head) => element("button", {
        type: "button", role: "gridcell", tabindex: -1, "data-layer": layer, "data-head": head,
      }));
      this.root.append(element("div", { role: "row" }, element("span", { role: "rowheader", title }, name), ...cells));
      return cells;
    });
    this.root.addEventListener("click", (event) => {
      const cell = target(event, "[role=gridcell]");
      if (cell) go({ layer: Number(cell.dataset.layer), head: Number(cell.dataset.head) });
    });
    this.root.addEventListener("keydown", (event) => this.#walk(event));
  }

  /**
   * @param {(spot: Spot) => number | null} heat from 0 to 1; null where there is no number
   * @param {(spot: Spot) => string} says
   */
  colour(heat, says) {
    this.#cells.forEach((cells, layer) => cells.forEach((cell, head) => {
      const part = heat({ layer, head });
      if (part === null) cell.style.removeProperty("--heat");
      else cell.style.setProperty("--heat", part.toFixed(3));
      cell.toggleAttribute("data-none", part === null);
      cell.title = says({ layer, head });
      cell.setAttribute("aria-label", cell.title);
    }));
  }

  /** @param {Spot} spot */
  choose({ layer, head }) {
    const was = this.#cells[this.#chosen.layer][this.#chosen.head];
    const now = this.#cells[layer][head];
    this.#chosen = { layer, head };
    was.setAttribute("tabindex", "-1");
    was.removeAttribute("aria-selected");
    now.setAttribute("tabindex", "0");
    now.setAttribute("aria-selected", "true");
    if (was !== now && was === focused(this.root)) now.focus();
  }

  /** @param {KeyboardEvent} event */
  #walk(event) {
    if (event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
    const { layer, head } = this.#chosen;
    const goal = { ArrowLeft: [layer, head - 1], ArrowRight: [layer, head + 1],
      ArrowUp: [layer - 1, head], ArrowDown: [layer + 1, head] }[event.key];
    if (!goal) return;
    event.preventDefault();
    const down = Math.min(Math.max(0, goal[0]), this.#cells.length - 1);
    this.#go({ layer: down, head: Math.min(Math.max(0, goal[1]), this.#cells[down].length - 1) });
  }
}
