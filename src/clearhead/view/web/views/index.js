/** The views there are. A new one is a module like head.js and a line here; tabs appear by themselves. */

import { headView } from "./head.js";

/**
 * @typedef {object} Context what a view is given
 * @property {HTMLElement} stage where it draws
 * @property {HTMLElement} margin beside it, for what is pointed at; below it on narrow screens
 * @property {import("../payload.js").Payload} payload
 * @property {import("../state.js").State} state
 */

/**
 * @typedef {object} Mounted a view in its place
 * @property {(place: import("../state.js").Place, layer: import("../payload.js").Layer) => void} update
 * @property {() => void} unmount lets go of what it listens to outside its place
 */

/**
 * @typedef {object} View
 * @property {string} title
 * @property {(context: Context) => Mounted} mount
 */

/** @type {Record<string, View>} by the name that stands in the address; the first is shown at first */
export const views = { head: headView };
