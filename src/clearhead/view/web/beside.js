/** Side by side: one view of two runs, at one place: what is held, chosen or moved in one is so in the other. */

import { element } from "./dom.js";
import { settle } from "./places.js";
import { views } from "./views/index.js";

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./state.js").Placed} Placed */

/** The views that can stand beside themselves: those of one head. */
export const paired = Object.fromEntries(Object.entries(views).filter(([, { ofOneHead }]) => ofOneHead));

export class Beside {
  #sides;

  /**
   * @param {HTMLElement} root the whole page
   * @param {string[]} names of the two runs
   * @param {Payload[]} payloads
   * @param {import("./state.js").State} state
   * @param {string} view
   */
  constructor(root, names, payloads, state, view) {
    this.#sides = payloads.map((payload, side) => {
      const stage = element("div", { class: "stage" });
      const margin = element("section", { class: "reading", "aria-label": `What is looked at in ${names[side]}` });
      const part = element("section", { class: "side", "aria-label": names[side] },
        element("h2", { class: "side-name", dir: "auto" }, names[side]), stage, margin);
      return { payload, part, mounted: views[view].mount({ root, stage, margin, payload, state }) };
    });
    this.root = element("div", { class: "beside" }, ...this.#sides.map(({ part }) => part));
  }

  /** @param {Placed} place @param {() => boolean} current whether one has not gone on meanwhile */
  async update(place, current) {
    const layers = await Promise.all(this.#sides.map(({ payload }) => payload.layer(place.layer)));
    if (!current()) return;
    this.#sides.forEach(({ payload, mounted }, side) => mounted.update(settle(place, payload), layers[side]));
  }

  unmount() {
    for (const { mounted } of this.#sides) mounted.unmount();
  }
}

/**
 * The payload that has more places, so that none of the other's is lost.
 * @param {Payload[]} payloads
 */
export function roomier(payloads) {
  /** @param {Payload} payload */
  const tokens = ({ contents }) => Math.max(...contents.texts.map((text) => text.length));
  return payloads.reduce((one, other) => (tokens(other) > tokens(one) ? other : one));
}
