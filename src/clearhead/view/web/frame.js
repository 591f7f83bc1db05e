/** The frame that the page lives in: a browser's window of its own, or a cell among others. */

import { block } from "./start.js";

/**
 * @typedef {object} Address where the place one is at is kept
 * @property {() => string} read "layer=3&head=2"
 * @property {(place: string, anew: boolean) => void} write `anew` if it is one that one may want to go back from
 * @property {(heard: () => void) => void} listen when somebody else has written
 * @property {() => string} [link] that opens the same place elsewhere
 */

/**
 * @typedef {object} Frame
 * @property {HTMLElement} root what the page fills
 * @property {HTMLElement} themed the element around it that bears the theme
 * @property {EventTarget} keys what hears the keys that are pressed
 * @property {Address} address
 * @property {() => boolean} [dark] whether it lies in the dark, which counts until one says otherwise; else the system's
 * @property {AbortSignal} [gone] when the page has left it, to make room for another
 */

/** Widths in px below which the style has rules of its own. */
const ROOMS = [1180, 820, 560];

/** @param {HTMLElement} root @returns {Frame} the window, whose address keeps the place */
export function wholePage(root) {
  measure(root);
  return {
    root,
    themed: document.documentElement,
    keys: document,
    address: {
      read: () => window.location.hash.slice(1),
      write: (place, anew) => remember(`#${place}`, anew),
      listen: (heard) => window.addEventListener("hashchange", heard),
      link: () => window.location.href,
    },
  };
}

/** @param {string} address of the window from now on @param {boolean} anew whether the browser's Back leads from it */
export function remember(address, anew) {
  if (anew) window.history.pushState(null, "", address);
  else window.history.replaceState(null, "", address);
}

/**
 * Marks how much room the page has, as `data-under-820`: a cell's width is not the window's, which is all that the
 * style could ask for.
 * @param {HTMLElement} root
 */
export function measure(root) {
  const observer = new ResizeObserver(() => {
    for (const width of ROOMS) root.toggleAttribute(`data-under-${width}`, root.clientWidth <= width);
  });
  observer.observe(root);
  for (const width of ROOMS) root.toggleAttribute(`data-under-${width}`, root.clientWidth <= width);
}

/**
 * The blocks that lie in the document, in base64.
 * @param {string} [prefix] of their names there
 * @returns {import("./payload.js").Blocks}
 */
export const inDocument = (prefix = "") => ({
  has: (name) => document.getElementById(prefix + name) !== null,
  packed: async (name) => {
    const characters = atob(block(prefix + name));
    const bytes = new Uint8Array(characters.length);
    for (let at = 0; at < bytes.length; at++) bytes[at] = characters.charCodeAt(at); // ten times as fast as from()
    return bytes;
  },
});
