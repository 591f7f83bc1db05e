/** Tokens made visible: a space as ·, a line's end as ↵, nothing as ∅, what has no shape by its number. */

import { element } from "./dom.js";

const SIGNS = new Map([[" ", "·"], ["\n", "↵"], ["\r", "\\r"], ["\t", "⇥"]]);

/** White space, controls, formats such as joiners, halves of characters, and what only changes others: no ink. */
const INKLESS = /[\p{Z}\p{Cc}\p{Cf}\p{Cs}\p{Default_Ignorable_Code_Point}]/u;

/** An emoji, with the joiners and colours that make one of several. */
const EMOJI = String.raw`\p{Extended_Pictographic}[\ufe0f\u{1f3fb}-\u{1f3ff}\u{e0020}-\u{e007f}]*`;
/** What is shown together: an emoji of several parts, a mark on the character that bears it, or one character. */
const PIECES = new RegExp(String.raw`${EMOJI}(?:\u200d${EMOJI})*|[^\p{M}]|\p{M}`, "gsu");

/**
 * A token's text in pieces for the eye. A sign stands for something else; a mark that bears on nothing gets a circle.
 * @param {string} text
 * @returns {{shown: string, isSign: boolean}[]}
 */
function pieces(text) {
  let bearer = false;
  const found = (text.match(PIECES) ?? []).map((piece) => {
    const alone = /^\p{M}$/u.test(piece) && !bearer;
    const inkless = piece.length <= 2 && INKLESS.test(piece) && !/\p{Extended_Pictographic}/u.test(piece);
    const hidden = inkless && !(bearer && piece === "\ufe0f");
    bearer = !hidden;
    if (hidden) return { shown: sign(piece), isSign: true };
    return alone ? { shown: `◌${piece}`, isSign: true } : { shown: piece, isSign: false };
  });
  return text ? found : [{ shown: "∅", isSign: true }];
}

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
 * A token's text for the eye: signs that stand for something else are marked. It runs as its own letters do, from the
 * left or from the right, and nothing beside it turns with it.
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
  for (const piece of pieces(text)) {
    if (piece.isSign) {
      flush();
      // A sign is no letter of the text, and must not say which way it runs.
      shown.append(element("span", { class: "sign", dir: "ltr" }, piece.shown));
    } else plain += piece.shown;
  }
  flush();
  return shown;
}

/** @param {string} text @returns {string} a token's text where there is only plain text */
export function spelled(text) {
  return pieces(text).map(({ shown }) => shown).join("");
}
