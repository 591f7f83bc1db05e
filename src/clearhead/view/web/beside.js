/** Side by side: one view of two runs, at one place: what is held, chosen or moved in one is so in the other. */

import { colours } from "./colours.js";
import { element, svg } from "./dom.js";
import { settle } from "./places.js";
import { views } from "./views/index.js";

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./state.js").Placed} Placed */

/** The views that can stand beside themselves: those of one head. */
export const paired = Object.fromEntries(Object.entries(views).filter(([, { ofOneHead }]) => ofOneHead));

/** Of a saved picture, in px: the room between the two, and above them for their names. */
const [BETWEEN_SIDES, ABOVE_SIDES] = [32, 34];
/** How many letters of a name are shown there. */
const NAME_LETTERS = 70;

export class Beside {
  #root;
  #names;
  #sides;

  /**
   * @param {HTMLElement} root the whole page
   * @param {string[]} names of the two runs
   * @param {Payload[]} payloads
   * @param {import("./state.js").State} state
   * @param {string} view
   */
  constructor(root, names, payloads, state, view) {
    this.#root = root;
    this.#names = names;
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

  /** @returns {Promise<SVGElement>} one drawing of both, each under its name */
  async picture() {
    const drawings = await Promise.all(this.#sides.map(({ mounted }) => mounted.picture?.() ?? svg("svg")));
    const { muted } = colours(this.#root);
    let [width, height] = [0, 0];
    const parts = drawings.map((drawing, side) => {
      const [wide, high] = ["width", "height"].map((name) => Number(drawing.getAttribute(name)));
      const x = side && width + BETWEEN_SIDES;
      [width, height] = [x + wide, Math.max(height, ABOVE_SIDES + high)];
      drawing.setAttribute("x", String(x));
      drawing.setAttribute("y", String(ABOVE_SIDES));
      const name = [...this.#names[side]];
      const shown = name.length > NAME_LETTERS ? `${name.slice(0, NAME_LETTERS - 1).join("")}…` : name.join("");
      return svg("g", {}, svg("text", { x: x + 16, y: 22, fill: muted, "font-size": 13 }, shown), drawing);
    });
    return svg("svg", {
      xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`,
      "font-family": "Helvetica, Arial, sans-serif",
    }, ...parts);
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
