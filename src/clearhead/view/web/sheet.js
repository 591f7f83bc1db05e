/** The sheet: what is looked at, in numbers. It lies beside the view where there is room, else over its lower edge. */

import { element } from "./dom.js";

/** How far above the sheet what is held stays, in px. */
const ABOVE_SHEET = 16;

/**
 * @param {HTMLElement} sheet
 * @param {HTMLElement[]} children
 * @param {boolean} filled false where the children only say what could be done
 * @param {(() => void) | null} letGo lets go of what is held; null if nothing is
 */
export function fillSheet(sheet, children, filled, letGo) {
  sheet.classList.toggle("filled", filled);
  sheet.replaceChildren(...children);
  if (!letGo) return;
  const close = element("button", { type: "button", class: "let-go", "aria-label": "Let go", title: "Let go" }, "✕");
  close.addEventListener("click", letGo);
  sheet.prepend(close);
}

/**
 * Scrolls what is held out from under the sheet.
 * @param {HTMLElement} sheet
 * @param {{bottom: number, left: number, right: number}} held where it is in the window
 * @param {Element | null} box the innermost that may scroll it
 */
export function keepAbove(sheet, held, box) {
  if (getComputedStyle(sheet).position !== "fixed") return;
  const { top, left, right } = sheet.getBoundingClientRect();
  let under = held.right < left || held.left > right ? 0 : held.bottom + ABOVE_SHEET - top;
  while (box && under > 0) {
    const before = box.scrollTop;
    box.scrollTop += under;
    under -= box.scrollTop - before;
    const around = box.getRootNode();
    box = box.parentElement ?? (around instanceof ShadowRoot ? around.host : null);
  }
}
