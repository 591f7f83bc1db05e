/** The form: a text or a pair of texts, and which model is to read it. */

import { element } from "../dom.js";
import { saidBy } from "./server.js";

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
        this.#text.value = this.#second.value = "";
      } catch (error) {
        this.#said.textContent = saidBy(error);
        this.#said.hidden = false;
      } finally {
        this.#button.disabled = false;
      }
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }

  /** @param {string[]} models @param {boolean} shown */
  update(models, shown) {
    if (this.#model.length !== models.length) {
      this.#model.replaceChildren(...models.map((model) => element("option", { value: model }, model)));
    }
    const appears = shown && this.root.hidden;
    this.root.hidden = !shown;
    if (appears) this.#text.focus();
  }
}
