/** The chooser: all heads at once, coloured by a statistic, and two lists to pick one by hand. */

import { element, focused, target } from "./dom.js";
import { heatOver, scaleLine, statisticPicker } from "./heat.js";
import { named, statistic } from "./statistics.js";

/** @typedef {import("./state.js").Place} Place */

const SUGGESTED = 5;

export class Chooser {
  #payload;
  #state;
  #layers = element("select", { id: "layer" });
  #heads = element("select", { id: "head" });
  #by;
  #says = element("p", { class: "says" });
  #grid = element("div", { class: "heads", role: "grid", "aria-label": "All heads" });
  #scale = element("p", { class: "scale" });
  #suggested = element("p", { class: "suggested" });
  /** @type {HTMLElement[][]} as [layer][head] */
  #cells = [];

  /**
   * @param {import("./payload.js").Payload} payload
   * @param {import("./state.js").State} state
   */
  constructor(payload, state) {
    this.#payload = payload;
    this.#state = state;
    const { roles, others } = named(payload.contents.statistics);
    this.#layers.append(...payload.contents.layers.map(({ position, name, kind }, index) =>
      element("option", { value: index }, `${position} · ${name}${kind === "cross" ? " (cross)" : ""}`)));
    this.#by = statisticPicker(payload, state, { id: "by" });
    this.#layers.addEventListener("change", () => state.go({ layer: Number(this.#layers.value) }));
    this.#heads.addEventListener("change", () => state.go({ head: Number(this.#heads.value) }));
    this.#fillGrid();

    const measured = roles.length + others.length > 0;
    this.root = element("section", { class: "chooser", "aria-label": "Layer and head" },
      element("div", { class: "pick" },
        element("label", { for: "layer" }, "Layer"), this.#layers,
        element("label", { for: "head" }, "Head"), this.#heads),
      element("details", { class: "overview", open: window.innerWidth > 820 },
        element("summary", {}, "All heads"),
        ...(measured ? [element("div", { class: "pick by" },
          element("label", { for: "by" }, "Coloured by"), this.#by), this.#says] : []),
        this.#grid,
        ...(measured ? [this.#scale, this.#suggested] : [])));
  }

  #fillGrid() {
    const { layers } = this.#payload.contents;
    const most = Math.max(...layers.map((layer) => layer.heads));
    this.#grid.style.setProperty("--heads", String(most));
    this.#cells = layers.map(({ position, name, heads }, layer) => {
      const cells = Array.from({ length: heads }, (_, head) =>
        element("button", {
          type: "button", role: "gridcell", tabindex: -1, "data-layer": layer, "data-head": head,
        }));
      this.#grid.append(element("div", { role: "row" },
        element("span", { role: "rowheader", title: name }, String(position)), ...cells));
      return cells;
    });
    this.#grid.addEventListener("click", (event) => {
      const cell = target(event, "[role=gridcell]");
      if (cell) this.#state.go({ layer: Number(cell.dataset.layer), head: Number(cell.dataset.head) });
    });
    this.#grid.addEventListener("keydown", (event) => this.#walk(event));
  }

  /** @param {KeyboardEvent} event ↑ and ↓ step through the layers; the page itself sees to ← and → */
  #walk(event) {
    const { layer } = this.#state.place;
    if (event.shiftKey) return;
    if (event.key === "ArrowUp") this.#state.go({ layer: Math.max(0, layer - 1) });
    else if (event.key === "ArrowDown") this.#state.go({ layer: layer + 1 });
    else return;
    event.preventDefault();
  }

  /** @param {Place} place */
  update(place) {
    const { layers, statistics } = this.#payload.contents;
    const { heads } = layers[place.layer];
    if (this.#heads.length !== heads) {
      this.#heads.replaceChildren(...Array.from({ length: heads }, (_, head) =>
        element("option", { value: head }, String(head))));
    }
    this.#layers.value = String(place.layer);
    this.#heads.value = String(place.head);
    this.#by.value = place.by;
    if (place.by && this.#grid.dataset.by !== place.by) this.#colour(place.by, statistics[place.by]);

    const was = this.#grid.querySelector("[aria-selected=true]");
    const now = this.#cells[place.layer][place.head];
    was?.setAttribute("tabindex", "-1");
    was?.removeAttribute("aria-selected");
    now.setAttribute("tabindex", "0");
    now.setAttribute("aria-selected", "true");
    if (was !== now && was === focused(this.#grid)) now.focus();
  }

  /** @param {string} by @param {(number | null)[][]} values */
  #colour(by, values) {
    const { title, says, write } = statistic(by);
    const { layers } = this.#payload.contents;
    const scale = heatOver(by, values);
    values.forEach((row, layer) => row.forEach((value, head) => {
      const cell = this.#cells[layer][head];
      const part = scale.of(value);
      if (part === null) cell.style.removeProperty("--heat");
      else cell.style.setProperty("--heat", part.toFixed(3));
      cell.toggleAttribute("data-none", part === null);
      const told = value === null ? "no number" : write(value);
      cell.title = `layer ${layers[layer].position}, head ${head}: ${title} ${told}`;
      cell.setAttribute("aria-label", cell.title);
    }));
    this.#grid.dataset.by = by;
    this.#says.textContent = says;
    this.#scale.replaceChildren(...scaleLine(write, scale));
    this.#suggested.replaceChildren("Most: ", ...scale.order.slice(0, SUGGESTED).map(({ layer, head }) => {
      const button = element("button", { type: "button", title: this.#cells[layer][head].title },
        `${layers[layer].position}·${head}`);
      button.addEventListener("click", () => this.#state.go({ layer, head }));
      return button;
    }));
  }
}
