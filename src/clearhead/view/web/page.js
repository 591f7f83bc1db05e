/** The page's start: shows the payload that lies in the document, or says why it cannot. */

import { Payload } from "./payload.js";
import { show } from "./app.js";
import { element } from "./dom.js";

/** @param {string} id @returns {string} what the document holds under this name */
function block(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`The page holds no "${id}": it was cut off when it was saved or sent.`);
  return found.textContent ?? "";
}

/** @param {number} index @returns {Promise<Uint8Array>} the packed bytes of one layer */
async function packedLayer(index) {
  return Uint8Array.from(atob(block(`layer-${index}`)), (character) => character.charCodeAt(0));
}

const root = /** @type {HTMLElement} */ (document.getElementById("clearhead"));
try {
  await show(root, new Payload(JSON.parse(block("contents")), packedLayer));
} catch (error) {
  const said = `This page cannot be shown. ${error}`;
  root.replaceChildren(element("p", { class: "broken", role: "alert" }, said));
  throw error;
}
