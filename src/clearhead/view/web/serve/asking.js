/** The form: a text or a pair of texts, and which model is to read it. What was typed stays there. */

import { element } from "../dom.js";
import { saidBy } from "./server.js";

/** Where what was typed is kept, for as long as the browser's tab is there. */
const TYPED = "clearhead-typed";

/** Texts to begin with, each of which some heads answer clearly. */
const EXAMPLES = {
  "a text that repeats itself": "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    + "age of foolishness, it was the epoch of belief, it was the epoch of incredulity.",
  "who gave what to whom": "When Mary and John went to the store, John gave a drink to Mary. When Anna and Tom went to the "
    + "park, Tom gave a ball to",
};

export class Asking {
  #text = element("textarea", { id: "text", rows: 5, required: true, spellcheck: "false", dir: "auto" });
  #second = element("textarea", { id: "second", rows: 3, spellcheck: "false", dir: "auto" });
  #model = element("select", { id: "model" });
  #button = element("button", { type: "submit", class: "read" }, "Read it");
  #said = element("p", { class: "trouble", role: "alert", hidden: true });

  /** @param {(model: string, text: string[]) => Promise<void>} ask */
  constructor(ask) {
    const form = element("form", {},
      element("h1", {}, "What shall the model read?"),
      element("p", { class: "hint" },
        "It reads the text here, on your own machine. Then every one of its heads can be looked at."),
      element("label", { for: "text" }, "Text"), this.#text,
      element("p", { class: "examples" }, "For example: ", ...Object.entries(EXAMPLES).flatMap(([name, text], n) => {
        const button = element("button", { type: "button" }, name);
        button.addEventListener("click", () => {
          this.#text.value = text;
          this.#keep();
          this.#text.focus();
        });
        return n ? [" · ", button] : [button];
      })),
      element("details", {},
        element("summary", {}, "A second text, for models that read pairs"),
        element("label", { for: "second" }, "Second text"), this.#second),
      element("div", { class: "send" },
        element("label", { for: "model" }, "Model"), this.#model, this.#button),
      this.#said);
    this.root = element("main", { class: "asking", hidden: true }, form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      this.#button.disabled = true;
      this.#said.hidden = true;
      const pair = this.#second.value.trim() ? [this.#second.value] : [];
      try {
        await ask(this.#model.value, [this.#text.value, ...pair]);
      } catch (error) {
        this.#said.textContent = saidBy(error);
        this.#said.hidden = false;
      } finally {
        this.#button.disabled = false;
      }
    });
    this.#recall();
    form.addEventListener("input", () => this.#keep());
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }

  #keep() {
    window.sessionStorage.setItem(TYPED, JSON.stringify([this.#text.value, this.#second.value]));
  }

  /** What was typed last; at first an example. */
  #recall() {
    const typed = window.sessionStorage.getItem(TYPED);
    const [text, second] = typed ? JSON.parse(typed) : [Object.values(EXAMPLES)[0], ""];
    [this.#text.value, this.#second.value] = [text, second];
  }

  /** @param {string[]} models @param {boolean} shown */
  update(models, shown) {
    if (this.#model.length !== models.length) {
      this.#model.replaceChildren(...models.map((model) => element("option", { value: model }, model)));
    }
    const appears = shown && this.root.hidden;
    this.root.hidden = !shown;
    if (!appears) return;
    this.#text.focus();
    this.#text.select(); // so that typing replaces it
  }
}
