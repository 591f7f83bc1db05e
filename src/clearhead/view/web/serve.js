/** The page of a server: texts are typed, read by a model while one watches, and looked at; several are kept. */

import { Asking } from "./serve/asking.js";
import { Server, saidBy } from "./serve/server.js";
import { Shelf } from "./serve/shelf.js";
import { Showing } from "./serve/showing.js";
import { SessionTheme } from "./serve/theme.js";
import { element } from "./dom.js";
import { measure } from "./frame.js";
import { themeButton } from "./theme.js";

const OFTEN = 200; // ms between two looks at how far a text is

class Session {
  #server = new Server();
  #theme = new SessionTheme();
  #shelf = new Shelf((number) => this.go(number), (number) => this.#remove(number),
    themeButton(this.#theme, { themed: document.documentElement }));
  #asking = new Asking((model, text) => this.#ask(model, text));
  #showing = new Showing(this.#server, (said) => this.#say(said), (number) => this.#remove(number),
    this.#theme);
  #said = element("p", { class: "trouble", role: "alert" });
  /** @type {number | null} the text that is shown; null for a new one */
  #at = null;
  /** @type {number | undefined} */
  #waiting;

  /** @param {HTMLElement} root */
  constructor(root) {
    root.replaceChildren(this.#shelf.root, this.#said, this.#asking.root, this.#showing.root);
    window.addEventListener("hashchange", () => {
      const number = numberIn(window.location.hash);
      if (number !== this.#at) this.go(number);
    });
    document.addEventListener("visibilitychange", () => this.look());
  }

  async start() {
    const { texts } = await this.#server.session();
    await this.go(numberIn(window.location.hash) ?? texts[texts.length - 1]?.number ?? null);
  }

  /** @param {number | null} number of the text to be shown, null for the form */
  go(number) {
    this.#at = number;
    this.#say("");
    return this.look();
  }

  /** Asks how things are, shows it, and asks again while something is under way. */
  async look() {
    window.clearTimeout(this.#waiting);
    let session;
    try {
      session = await this.#server.session();
    } catch (error) {
      this.#say(saidBy(error));
      throw error;
    }
    const { models, texts, notice } = session;
    let text = texts.find(({ number }) => number === this.#at) ?? null;
    if (!text && this.#at !== null) {
      this.#say(notice ?? "This text is no longer kept.");
      this.#at = null;
    }
    this.#shelf.update(texts, this.#at, notice);
    this.#asking.update(models, text === null);
    await this.#showing.update(text);
    if (texts.some(({ state }) => state === "waiting" || state === "running")) {
      window.clearTimeout(this.#waiting);
      this.#waiting = window.setTimeout(() => this.look(), OFTEN);
    }
    return session;
  }

  /** @param {string} model @param {string[]} text */
  async #ask(model, text) {
    const number = await this.#server.add(model, text);
    this.#at = number;
    this.#say("");
    await this.look();
  }

  /** @param {number} number */
  async #remove(number) {
    try {
      await this.#server.remove(number);
    } catch (error) {
      this.#say(saidBy(error)); // It may be gone already.
    }
    const { texts } = await this.#server.session();
    if (this.#at === number) this.#at = texts[texts.length - 1]?.number ?? null;
    await this.look();
  }

  /** @param {string} said */
  #say(said) {
    this.#said.textContent = said;
    this.#said.hidden = !said;
  }
}

/** @param {string} hash "#text=3&layer=2" @returns {number | null} */
function numberIn(hash) {
  const said = new URLSearchParams(hash.slice(1)).get("text");
  return said === null ? null : Number(said);
}

const page = /** @type {HTMLElement} */ (document.getElementById("clearhead"));
page.classList.add("serve");
measure(page);
await new Session(page).start();
