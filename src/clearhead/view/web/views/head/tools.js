/** The tools above the columns: which heads, how strong a line must be, tokens or words, which sentences. */

import { element } from "../../dom.js";
import { counted } from "../../numbers.js";
import { HEADS, headsOf } from "./choices.js";
import { kindsOf } from "./kinds.js";

/** @typedef {import("../../state.js").Placed} Placed */

/** In per cent. */
const STEPS = [0, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90];

export class Tools {
  #state;
  #contents;
  #kinds;
  #kind = element("div", { class: "switch", role: "group", "aria-label": "Kind of attention" });
  #heads = element("div", { class: "tool chips", role: "group", "aria-label": "Heads shown" });
  #least = element("input", { type: "range", min: 0, max: STEPS.length - 1, step: 1, "aria-label": "Least weight of a line" });
  #says = element("span", { class: "tool-says", "aria-live": "polite" });
  #units = element("div", { class: "switch", role: "group", "aria-label": "Tokens or words" });
  #between = element("select", { "aria-label": "Between sentences" });
  #sentences = element("label", { class: "tool" }, "Sentences", this.#between);

  /** @param {import("../../payload.js").Payload} payload @param {import("../../state.js").State} state */
  constructor({ contents }, state) {
    this.#state = state;
    this.#contents = contents;
    this.#kinds = kindsOf(contents);
    this.#kind.append(...this.#kinds.map(({ title, layers }) => this.#button(title, { layer: layers[0] })));
    this.#units.append(this.#button("Tokens", { units: null }), this.#button("Words", { units: "words" }));
    this.#least.addEventListener("input", () => state.go({ least: STEPS[Number(this.#least.value)] || null }));
    this.#between.addEventListener("change", () => state.go({ between: this.#between.value || null }));
    this.root = element("div", { class: "tools" },
      this.#kind, this.#heads,
      element("label", { class: "tool" }, "Lines from", this.#least, this.#says),
      this.#units, this.#sentences);
    // ← and → are the slider's own here.
    this.#least.addEventListener("keydown", (event) => event.stopPropagation());
  }

  /** @param {string} title @param {Record<string, unknown>} change */
  #button(title, change) {
    const button = element("button", { type: "button" }, title);
    button.addEventListener("click", () => this.#state.go(change));
    return button;
  }

  /**
   * @param {Placed} place
   * @param {import("../../payload.js").Layer} layer
   * @param {import("./units.js").Sides} sides
   * @param {{shown: number, all: number}} lines
   */
  update(place, layer, sides, lines) {
    this.#kind.hidden = !this.#kinds.length;
    press(this.#kind, this.#kinds.findIndex(({ layers }) => layers.includes(place.layer)));
    this.#fillHeads(place, layer.entry.heads);

    const least = place.least ?? 0;
    const step = STEPS.filter((value) => value <= least).length - 1;
    this.#least.value = String(step);
    this.#least.setAttribute("aria-valuetext", least ? `${least} per cent` : "all");
    this.#says.textContent = `${least ? `${least}\u202f%` : "all"} · ` + (lines.shown < lines.all
      ? `${lines.shown.toLocaleString("en")} of ${counted(lines.all, "line")}` : counted(lines.all, "line"));
    this.#says.dataset.shown = String(lines.shown);

    const { words, segments } = this.#contents;
    const { entry } = layer;
    this.#units.hidden = !(words?.[entry.keys] && (entry.kind === "self" || words[entry.queries]));
    press(this.#units, place.units === "words" ? 1 : 0);
    this.#units.title = "A word’s weight: summed over its tokens where it is looked at, their mean where it looks. "
      + "Its number is its first token’s.";
    this.#sentences.hidden = !segments?.some(Boolean);
    this.#fillBetween(place.between, sides);
  }

  /** @param {Placed} place @param {number} count */
  #fillHeads(place, count) {
    const shown = headsOf(place);
    const again = this.#heads.contains(document.activeElement);
    const chips = shown.map((head, at) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = `var(--head-${at})`;
      if (shown.length === 1) return element("span", { class: "chip" }, swatch, String(head));
      const chip = this.#button("", without(shown, at));
      chip.className = "chip";
      chip.setAttribute("aria-label", `Take head ${head} away`);
      chip.append(swatch, String(head), element("span", { class: "away", "aria-hidden": "true" }, "✕"));
      return chip;
    });
    const add = element("select", { class: "add", "aria-label": "Add a head" }, element("option", { value: "" }, "+ add"));
    for (let head = 0; head < count; head++) {
      if (!shown.includes(head)) add.append(element("option", { value: head }, `head ${head}`));
    }
    add.addEventListener("change", () => {
      if (add.value) this.#state.go({ also: [...shown.slice(1), add.value].join(".") });
    });
    const room = shown.length < Math.min(HEADS, count);
    this.#heads.replaceChildren(element("span", {}, shown.length > 1 ? "Heads" : "Head"), ...chips, ...(room ? [add] : []));
    if (again) /** @type {HTMLElement | null} */ (this.#heads.querySelector("select, button"))?.focus();
  }

  /** @param {string | null} between @param {import("./units.js").Sides} sides */
  #fillBetween(between, { queries, keys }) {
    const [of, at] = [queries, keys].map(({ sentences }) => Math.max(0, ...new Set(sentences ?? [])) + 1);
    const pairs = of * at > 16 ? [] : Array.from({ length: of * at }, (_, n) => [Math.floor(n / at), n % at]);
    const name = (/** @type {number} */ n) => (n < 26 ? String.fromCharCode(65 + n) : String(n + 1));
    const choices = [["", "all"], ["within", "within one"], ["across", "across"],
      ...pairs.map(([from, to]) => [`${from}.${to}`, `${name(from)} → ${name(to)}`])];
    if (this.#between.length !== choices.length) {
      this.#between.replaceChildren(...choices.map(([value, title]) => element("option", { value }, title)));
    }
    this.#between.value = between ?? "";
  }
}

/** @param {number[]} shown @param {number} at @returns {Record<string, unknown>} */
function without(shown, at) {
  const [head, ...also] = shown.filter((_, n) => n !== at);
  return { head, also: also.join(".") || null };
}

/** @param {HTMLElement} group @param {number} chosen */
function press(group, chosen) {
  [...group.children].forEach((button, n) => button.setAttribute("aria-pressed", String(n === chosen)));
}
