/** The chooser: all heads at once, coloured by a statistic, and two lists to pick one by hand. */

import { element } from "./dom.js";
import { HeadGrid } from "./grid.js";
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
  #grid;
  #coloured = "";
  #scale = element("p", { class: "scale" });
  #suggested = element("p", { class: "suggested" });

  /**
   * @param {HTMLElement} root the whole page, which bears how much room there is
   * @param {import("./payload.js").Payload} payload
   * @param {import("./state.js").State} state
   */
  constructor(root, payload, state) {
    this.#payload = payload;
    this.#state = state;
    const { roles, others } = named(payload.contents.statistics);
    this.#layers.append(...payload.contents.layers.map(({ position, name, kind }, index) =>
      element("option", { value: index }, `${position} · ${name}${kind === "cross" ? " (cross)" : ""}`)));
    this.#by = statisticPicker(payload, state, { id: "by" });
    this.#layers.addEventListener("change", () => state.go({ layer: Number(this.#layers.value) }));
    this.#heads.addEventListener("change", () => state.go({ head: Number(this.#heads.value) }));
    this.#grid = new HeadGrid(payload.contents.layers.map(({ position, name, heads }) =>
      ({ name: String(position), title: name, heads })), (spot) => state.go({ ...spot }));

    const measured = roles.length + others.length > 0;
    this.root = element("section", { class: "chooser", "aria-label": "Layer and head" },
      element("div", { class: "pick" },
        element("label", { for: "layer" }, "Layer"), this.#layers,
        element("label", { for: "head" }, "Head"), this.#heads),
      element("details", { class: "overview", open: !root.hasAttribute("data-under-820") },
        element("summary", {}, "All heads"),
        ...(measured ? [element("div", { class: "pick by" },
          element("label", { for: "by" }, "Coloured by"), this.#by), this.#says] : []),
        this.#grid.root,
        ...(measured ? [this.#scale, this.#suggested] : [])));
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
    if (place.by && this.#coloured !== place.by) this.#colour(place.by, statistics[place.by]);
    this.#grid.choose(place);
  }

  /** @param {string} by @param {(number | null)[][]} values */
  #colour(by, values) {
    const { title, says, write } = statistic(by);
    const { layers } = this.#payload.contents;
    const scale = heatOver(by, values);
    /** @param {import("./grid.js").Spot} spot */
    const told = ({ layer, head }) => {
      const value = values[layer][head];
      return `layer ${layers[layer].position}, head ${head}: ${title} ${value === null ? "no number" : write(value)}`;
    };
    this.#grid.colour(({ layer, head }) => scale.of(values[layer][head]), told);
    this.#coloured = by;
    this.#says.textContent = says;
    this.#scale.replaceChildren(...scaleLine(write, scale));
    this.#suggested.replaceChildren("Most: ", ...scale.order.slice(0, SUGGESTED).map(({ layer, head }) => {
      const button = element("button", { type: "button", title: told({ layer, head }) },
        `${layers[layer].position}·${head}`);
      button.addEventListener("click", () => this.#state.go({ layer, head }));
      return button;
    }));
  }
}
