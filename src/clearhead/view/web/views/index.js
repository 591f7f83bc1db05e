/** The views there are. A new one is a module like head.js and a line here; tabs appear by themselves. */

import { headView } from "./head.js";
import { modelView } from "./model.js";
import { mapView } from "./map.js";
import { patchesView } from "./patches.js";
import { productView } from "./product.js";
import { reportView } from "./report.js";

/** @typedef {import("../state.js").Place} Place */

/**
 * @typedef {object} Context what a view is given
 * @property {HTMLElement} root the whole page, which bears the view's name in data-view
 * @property {HTMLElement} stage where it draws
 * @property {HTMLElement} margin beside it, for what is pointed at; below it on narrow screens
 * @property {import("../payload.js").Payload} payload
 * @property {import("../state.js").State} state
 */

/**
 * @typedef {object} Mounted a view in its place
 * @property {(place: import("../state.js").Placed, layer: import("../payload.js").Layer) => void} update
 * @property {() => void} unmount lets go of what it listens to outside its place
 * @property {(event: KeyboardEvent) => void} [key] a key that nothing else took; what it takes, it prevents the default of
 * @property {() => Promise<SVGElement>} [picture] what is to be seen now as a drawing that stands alone, for a paper:
 *   with width, height and viewBox, its colours written out (see colours.js), of no style sheet and no other file
 */

/**
 * @typedef {object} View
 * @property {string} title
 * @property {string} [keys] what the keys do there, in a line
 * @property {(context: Context) => Mounted} mount
 * @property {(payload: import("../payload.js").Payload) => boolean} [fits] false where there is nothing for it to show
 * @property {boolean} [leavesOut] true if it leaves out the keys that the address names
 * @property {boolean} [ofOneHead] true if two of it, of two runs, can stand side by side
 * @property {(wish: Record<string, unknown>, place: Place, payload: import("../payload.js").Payload) =>
 *   Record<string, string | number | null>} [settle] makes of a wish what this view keeps in the address of its own,
 *   under names of its own; null is left out
 */

/** @type {Record<string, View>} by the name that stands in the address; the first is shown at first */
export const views = { model: modelView, head: headView, map: mapView, patches: patchesView, product: productView, report: reportView };

/** @param {import("../payload.js").Payload} payload @returns {Record<string, View>} the views that it has something for */
export function viewsOf(payload) {
  return Object.fromEntries(Object.entries(views).filter(([, { fits }]) => fits?.(payload) ?? true));
}
