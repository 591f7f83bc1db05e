/** A column of tokens: each can be pointed at, held, walked through with the keyboard, and bear a weight. */

import { element, target } from "../dom.js";
import { percent } from "../numbers.js";
import { spelled, tokenText } from "../tokens.js";

/** @typedef {import("../payload.js").Entry} Entry */

export class Column {
  /** @type {HTMLElement[]} */
  #tokens = [];
  /** @type {HTMLElement[]} */
  #weighted = [];

  /**
   * @param {"query" | "key"} side
   * @param {{point: (position: number | null) => void, hold: (position: number) => void}} heard
   */
  constructor(side, heard) {
    this.side = side;
    const label = side === "query" ? "Queries, the tokens that look" : "Keys, the tokens looked at";
    this.root = element("div", { class: `column ${side}`, role: "listbox", "aria-label": label });
    /** @param {Event} event */
    const position = (event) => {
      const token = target(event, "[data-position]");
      return token ? Number(token.dataset.position) : null;
    };
    this.root.addEventListener("pointerover", (event) => heard.point(position(event)));
    this.root.addEventListener("pointerleave", () => heard.point(null));
    this.root.addEventListener("focusin", (event) => heard.point(position(event)));
    this.root.addEventListener("focusout", () => heard.point(null));
    this.root.addEventListener("click", (event) => {
      const clicked = position(event);
      if (clicked !== null) heard.hold(clicked);
    });
    this.root.addEventListener("keydown", (event) => this.#walk(event, position(event)));
  }

  /**
   * @param {string[]} texts
   * @param {number} offset rows left empty above, which number the tokens too
   */
  fill(texts, offset) {
    this.#weighted = [];
    this.#tokens = texts.map((text, position) => {
      const name = `${position + offset}: ${spelled(text)}`;
      return element("div", { role: "option", tabindex: position ? -1 : 0, "aria-label": name,
        "data-position": position },
      element("span", { class: "number" }, String(position + offset)), tokenText(text));
    });
    this.root.style.setProperty("--offset", String(offset));
    this.root.replaceChildren(...this.#tokens);
  }

  /**
   * @param {Entry[]} entries the tokens that bear a weight; all others bear none
   * @param {number | null} pointed the token whose weights these are, if it is in this column
   * @param {boolean} held
   */
  mark(entries, pointed, held) {
    for (const token of this.#weighted) {
      token.style.removeProperty("--weight");
      delete token.dataset.weight;
    }
    this.#weighted = entries.map(({ position, weight }) => {
      const token = this.#tokens[position];
      token.style.setProperty("--weight", weight.toFixed(4));
      token.dataset.weight = percent(weight);
      return token;
    });
    this.root.querySelector(".pointed")?.classList.remove("pointed");
    this.root.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
    if (pointed === null) return;
    this.#tokens[pointed].classList.add("pointed");
    if (held) this.#tokens[pointed].setAttribute("aria-selected", "true");
  }

  /** @param {number} position brought to the middle of the window */
  reveal(position) {
    this.#tokens[position].scrollIntoView({ block: "center" });
  }

  /** @param {KeyboardEvent} event @param {number | null} position of the token that has the focus */
  #walk(event, position) {
    if (position === null) return;
    const last = this.#tokens.length - 1;
    const goal = { ArrowUp: position - 1, ArrowDown: position + 1, Home: 0, End: last }[event.key];
    if (event.key === "Enter" || event.key === " ") this.#tokens[position].click();
    else if (goal === undefined || event.shiftKey) return;
    else {
      const next = this.#tokens[Math.min(Math.max(0, goal), last)];
      this.#tokens[position].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
    event.preventDefault();
  }
}
