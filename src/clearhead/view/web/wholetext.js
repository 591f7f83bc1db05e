/** The whole text, which the title only begins: folded up in the head of the page, and so there in every view. */

import { element } from "./dom.js";

/** What texts are called that are read beside one another. */
const TEXT_NAMES = { queries: "Written", keys: "Read" };

/**
 * @param {import("./payload.js").Contents} contents
 * @returns {HTMLElement[]} nothing where the title says it all, or nobody knows the text
 */
export function wholeText({ title, read, layers }) {
  const known = (read ?? []).flatMap((text, number) => (text === null || text.trim() === title ? [] : [{ text, number }]));
  if (!known.length) return [];
  const cross = layers.find(({ kind }) => kind === "cross");
  const name = (/** @type {number} */ number) => (number === cross?.queries ? TEXT_NAMES.queries : TEXT_NAMES.keys);
  return [element("details", { class: "whole-text" },
    element("summary", {}, "The whole text"),
    element("div", { class: "whole-texts", tabindex: 0, role: "region", "aria-label": "The whole text" },
      ...known.flatMap(({ text, number }) => [
        ...(known.length > 1 && cross ? [element("h2", {}, name(number))] : []),
        element("p", { dir: "auto" }, text)])))];
}
