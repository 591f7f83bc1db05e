/** The shelf: the texts of the session above the page, to go from one to another, and to let one go. */

import { element, target } from "../dom.js";

/** @typedef {import("./server.js").Told} Told */

export class Shelf {
  #list = element("ul", {});
  #fresh = element("button", { type: "button", class: "fresh" }, "New text");
  #notice = element("p", { class: "notice", role: "status" });

  #theme;

  /**
   * @param {(number: number | null) => void} go
   * @param {(number: number) => void} remove
   * @param {HTMLElement} theme the button that turns to the other, where no page has its own
   */
  constructor(go, remove, theme) {
    this.#theme = theme;
    this.root = element("nav", { class: "shelf", "aria-label": "Texts" },
      element("p", { class: "wordmark" }, "Clearhead"), this.#list, this.#fresh, theme, this.#notice);
    this.#fresh.addEventListener("click", () => go(null));
    this.#list.addEventListener("click", (event) => {
      const item = target(event, "li");
      if (!item || !target(event, "button")) return;
      const number = Number(item.dataset.number);
      if (target(event, ".remove")) remove(number);
      else go(number);
    });
  }

  /** @param {Told[]} texts @param {number | null} at @param {string | null} notice */
  update(texts, at, notice) {
    const there = new Map([...this.#list.children].map((item) => {
      const { number } = /** @type {HTMLElement} */ (item).dataset;
      return [Number(number), /** @type {HTMLElement} */ (item)];
    }));
    const items = texts.map((text) => {
      const item = there.get(text.number) ?? made(text);
      item.dataset.state = text.state;
      const button = /** @type {HTMLElement} */ (item.firstElementChild);
      if (text.number !== at) button.removeAttribute("aria-current");
      else if (!button.hasAttribute("aria-current")) {
        button.setAttribute("aria-current", "page");
        window.requestAnimationFrame(() => item.scrollIntoView({ block: "nearest", inline: "nearest" }));
      }
      return item;
    });
    // Put in place again only where something changed, so that the focus stays.
    if (items.length !== there.size || items.some((item, n) => item !== this.#list.children[n])) {
      this.#list.replaceChildren(...items);
    }
    this.#fresh.hidden = at === null;
    this.#theme.hidden = texts.some(({ number, state }) => number === at && state === "ready");
    this.#notice.textContent = notice ?? "";
    this.#notice.hidden = !notice;
  }
}

/** @param {Told} text */
function made({ number, title, model }) {
  return element("li", { "data-number": number },
    element("button", { type: "button", class: "one", title: `${title}\n${model}` },
      element("bdi", {}, title), element("span", { class: "number" }, model)),
    element("button", { type: "button", class: "remove", "aria-label": `Let go: ${title}`, title: "Let go" }, "✕"));
}
