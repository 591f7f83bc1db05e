/** A text of the session: how far it is while the model reads it, then its page, with blocks made on demand. */

import { element } from "../dom.js";
import { measure, remember } from "../frame.js";
import { counted } from "../numbers.js";
import { Payload } from "../payload.js";
import { show } from "../app.js";
import { saidBy } from "./server.js";

/** @typedef {import("./server.js").Told} Told */

export class Showing {
  #server;
  #say;
  /** @type {number | null} the text whose page is there */
  #shown = null;
  #gone = new AbortController();
  /** @type {Map<number, string>} where one was in each */
  #places = new Map();
  #theme;
  root = element("div", { class: "showing" });
  #progress = element("progress", { "aria-label": "How far it is" });
  #what = element("p", { class: "what", role: "status" });
  #stop = element("button", { type: "button", class: "stop" }, "Stop");
  #telling = 0;

  /**
   * @param {import("./server.js").Server} server
   * @param {(said: string) => void} say what went wrong
   * @param {(number: number) => void} remove
   * @param {import("./theme.js").SessionTheme} theme
   */
  constructor(server, say, remove, theme) {
    this.#theme = theme;
    this.#server = server;
    this.#say = say;
    this.#stop.addEventListener("click", () => remove(this.#telling));
  }

  /** @param {Told | null} text */
  async update(text) {
    if (text?.state === "ready") {
      if (this.#shown !== text.number) await this.#open(text.number);
      return;
    }
    this.#leave();
    if (!text) {
      this.root.replaceChildren();
      if (window.location.hash) window.history.replaceState(null, "", window.location.pathname);
      return;
    }
    window.history.replaceState(null, "", `#text=${text.number}`);
    if (text.of === null) this.#progress.removeAttribute("value");
    else Object.assign(this.#progress, { max: text.of, value: text.done });
    const failed = text.state === "failed";
    this.#what.textContent = failed ? text.said : text.of === null ? `${text.what} …`
      : `${text.what}: ${text.done} of ${counted(text.of, "attention")}`;
    this.#telling = text.number;
    const children = [element("h1", { dir: "auto" }, text.title),
      ...(failed ? [this.#what] : [this.#progress, this.#what, this.#stop])];
    const at = `${text.number} ${failed}`;
    if (this.root.dataset.telling !== at) {
      this.root.replaceChildren(element("main", { class: "telling", "data-failed": failed }, ...children));
      this.root.dataset.telling = at;
    }
  }

  /** @param {number} number */
  async #open(number) {
    this.#leave();
    this.#shown = number;
    this.#gone = new AbortController();
    const { signal } = this.#gone;
    const place = this.#places.get(number);
    if (inAddress(number) === null) remember(`#text=${number}${place ? `&${place}` : ""}`, true);
    const root = element("div", { class: "page", "data-number": number });
    this.root.replaceChildren(root);
    measure(root);
    try {
      const contents = await this.#server.contents(number);
      if (signal.aborted) return;
      await show(this.#frame(root, number, signal), new Payload(contents, {
        has: () => true,
        packed: (name) => this.#server.block(number, name).catch((error) => {
          if (!signal.aborted) this.#say(saidBy(error));
          throw error;
        }),
      }));
    } catch (error) {
      if (signal.aborted) return;
      this.#shown = null;
      root.replaceChildren(element("p", { class: "broken", role: "alert" }, `This text cannot be shown. ${error}`));
      throw error;
    }
  }

  #leave() {
    this.#gone.abort();
    this.#shown = null;
    delete this.root.dataset.telling;
  }

  /**
   * @param {HTMLElement} root
   * @param {number} number
   * @param {AbortSignal} gone
   * @returns {import("../frame.js").Frame}
   */
  #frame(root, number, gone) {
    return {
      root,
      themed: document.documentElement,
      keys: document,
      address: {
        read: () => {
          const place = new URLSearchParams(inAddress(number) ?? this.#places.get(number));
          const { theme } = this.#theme.place;
          if (theme) place.set("theme", theme);
          return String(place);
        },
        write: (place, anew) => {
          if (gone.aborted) return;
          this.#places.set(number, place);
          const theme = new URLSearchParams(place).get("theme");
          this.#theme.go({ theme: theme === "light" || theme === "dark" ? theme : null });
          remember(`#text=${number}&${place}`, anew);
        },
        listen: (heard) => window.addEventListener("hashchange", () => {
          const place = inAddress(number);
          if (place === null) return;
          this.#places.set(number, place);
          heard();
        }, { signal: gone }),
      },
      gone,
    };
  }
}

/** @param {number} number of a text @returns {string | null} the place in it that the window's address tells, if it does */
function inAddress(number) {
  const said = new URLSearchParams(window.location.hash.slice(1));
  return said.get("text") === String(number) ? String(said) : null;
}
