/** The controls of the wall: whether it shows maps or colours, of which statistic, in which order, and which heads. */

import { element } from "../../dom.js";
import { statisticPicker } from "../../heat.js";
import { pressTone, toneSwitch } from "../../tone.js";
import { counted } from "../../numbers.js";
import { CLEARLY, clearly, named, players } from "../../statistics.js";
import { spotsOf } from "./layout.js";

/** @typedef {import("../../state.js").Placed} Placed */

const WALL_ORDERS = { layers: "by layer", strength: "strongest first", role: "by what they do" };

export class WallControls {
  #payload;
  #by;
  #order;
  #only = element("input", { type: "checkbox" });
  #onlySays = element("span");
  #kinds;
  #tone;
  #tones;

  /** @param {import("../index.js").Context} context */
  constructor({ payload, state }) {
    this.#payload = payload;
    this.#by = statisticPicker(payload, state, { "aria-label": "Statistic", class: "wall-by" });
    const roles = named(payload.contents.statistics).roles.length > 0;
    const orders = Object.entries(WALL_ORDERS).filter(([order]) => roles || order !== "role");
    this.#order = element("select", { "aria-label": "Order" },
      ...orders.map(([value, text]) => element("option", { value }, text)));
    this.#order.addEventListener("change", () => state.go({ order: this.#order.value }));
    this.#only.addEventListener("change", () => state.go({ only: this.#only.checked ? "1" : null }));
    this.#kinds = Object.entries({ maps: "small maps", heat: "a colour each" }).map(([wall, text]) => {
      const kind = element("button", { type: "button", "data-wall": wall }, text);
      kind.addEventListener("click", () => state.go({ wall }));
      return kind;
    });
    this.#tone = toneSwitch(state);
    this.#tones = element("div", { class: "tones" }, element("span", {}, "Scale"), this.#tone);
    this.root = element("div", { class: "wall-controls" },
      element("div", { class: "either", role: "group", "aria-label": "Tiles show" }, ...this.#kinds), this.#tones,
      element("label", {}, element("span", {}, "Statistic"), this.#by),
      element("label", {}, element("span", {}, "Order"), this.#order),
      element("label", { class: "only" }, this.#only, this.#onlySays));
  }

  /** @param {Placed} place */
  update(place) {
    const { layers, statistics } = this.#payload.contents;
    this.#by.value = place.by;
    this.#order.value = place.order ?? "layers";
    this.#only.checked = place.only === "1";
    const { roles } = named(statistics);
    const isRole = roles.includes(place.by);
    /** @type {HTMLElement} */ (this.#only.parentElement).hidden = !isRole;
    if (isRole) {
      const all = spotsOf(layers);
      const clear = players(statistics, place.by).filter(clearly);
      this.#onlySays.textContent = `only the ${clear.length} of ${counted(all.length, "head")} that do it clearly`;
      this.#only.parentElement?.setAttribute("title",
        `at least ${100 * CLEARLY} % of the way from a uniform head’s score to 100 %`);
    }
    const maps = showsMaps(place, this.#payload);
    this.#tones.hidden = !maps;
    pressTone(this.#tone, place);
    for (const kind of this.#kinds) {
      kind.setAttribute("aria-pressed", String((kind.dataset.wall === "maps") === maps));
      kind.disabled = kind.dataset.wall === "maps" && !this.#payload.has("thumbs-0");
    }
  }
}

/** @param {Placed} place @param {import("../../payload.js").Payload} payload */
export const showsMaps = (place, payload) => place.wall !== "heat" && payload.has("thumbs-0");
