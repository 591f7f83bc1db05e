/** Tokens made visible: a space as ·, a line's end as ↵, nothing as ∅, what has no shape by its number. */

import { element } from "./dom.js";

const SIGNS = new Map([[" ", "·"], ["\n", "↵"], ["\r", "\\r"], ["\t", "⇥"]]);

/** White space, controls, formats such as joiners, and halves of characters: all that leaves no ink. */
const INKLESS = /[\p{Z}\p{Cc}\p{Cf}\p{Cs}]/u;

/**
 * @param {string} character one that leaves no ink
 * @returns {string}
 */
function sign(character) {
  const number = /** @type {number} */ (character.codePointAt(0));
  // Python's surrogateescape: a byte that was no text.
  if (number >= 0xdc80 && number <= 0xdcff) return `\\x${(number - 0xdc00).toString(16)}`;
  return SIGNS.get(character) ?? `U+${number.toString(16).toUpperCase().padStart(4, "0")}`;
}

/**
 * A token's text for the eye: signs that stand for something else are marked.
 * @param {string} text
 * @returns {HTMLElement}
 */
export function tokenText(text) {
  const shown = element("bdi", { class: "text" });
  let plain = "";
  const flush = () => {
    if (plain) shown.append(plain);
    plain = "";
  };
  for (const character of text) {
    if (INKLESS.test(character)) {
      flush();
      shown.append(element("span", { class: "sign" }, sign(character)));
    } else plain += character;
  }
  flush();
  if (!text) shown.append(element("span", { class: "sign" }, "∅"));
  return shown;
}

/** @param {string} text @returns {string} a token's text where there is only plain text */
export function spelled(text) {
  return [...text].map((character) => (INKLESS.test(character) ? sign(character) : character)).join("") || "∅";
}
