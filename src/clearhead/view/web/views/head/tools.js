/** The tools above the columns: which heads, how strong a line must be, which keys are left out, words, sentences. */

import { element, focused } from "../../dom.js";
import { counted } from "../../numbers.js";
import { spelled } from "../../tokens.js";
import { HEADS, asLeftOut, headsOf, withoutOf } from "./choices.js";
import { kindsOf } from "./kinds.js";

/** @typedef {import("../../state.js").Placed} Placed */

/** In per cent. */
const STEPS = [0, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90];

export class Tools {
  #state;
  #contents;
  #kinds;
  #kind = element("div", { class: "switch", role: "group", "aria-label": "Kind of attention" });
  #all = element("div", { class: "switch", role: "group", "aria-label": "One head or all" });
  #heads = element("div", { class: "tool chips", role: "group", "aria-label": "Heads shown" });
  #least = element("input", { type: "range", min: 0, max: STEPS.length - 1, step: 1, "aria-label": "Least weight of a line" });
  #says = element("span", { class: "tool-says", "aria-live": "polite" });
  #without = element("div", { class: "tool without", role: "group", "aria-label": "Keys left out" });
  #units = element("div", { class: "switch", role: "group", "aria-label": "Tokens or words" });
  #between = element("select", { "aria-label": "Between sentences" });
  #sentences = element("label", { class: "tool" }, "Sentences", this.#between);

  #single;

  /**
   * @param {import("../../payload.js").Payload} payload
   * @param {import("../../state.js").State} state
   * @param {(head: number | null) => void} single is called with the head of which alone the lines are to be drawn
   */
  constructor({ contents }, state, single) {
    this.#single = single;
    this.#state = state;
    this.#contents = contents;
    this.#kinds = kindsOf(contents);
    this.#kind.append(...this.#kinds.map(({ title, layers }) => this.#button(title, { layer: layers[0] })));
    this.#all.append(this.#button("One head", { all: null }), this.#button("All heads", { all: "1", also: null }));
    this.#units.append(this.#button("Tokens", { units: null }), this.#button("Words", { units: "words" }));
    this.#least.addEventListener("input", () => state.go({ least: STEPS[Number(this.#least.value)] || null }));
    this.#between.addEventListener("change", () => state.go({ between: this.#between.value || null }));
    this.root = element("div", { class: "tools" },
      this.#kind, this.#all, this.#heads, this.#without,
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
   * @param {string[]} colours of the heads shown
   */
  update(place, layer, sides, lines, colours) {
    this.#kind.hidden = !this.#kinds.length;
    press(this.#kind, this.#kinds.findIndex(({ layers }) => layers.includes(place.layer)));
    this.#all.hidden = layer.entry.heads === 1;
    press(this.#all, place.all ? 1 : 0);
    this.#fillHeads(place, layer.entry.heads, colours);
    this.#fillWithout(place, layer.keys);

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

  /** @param {Placed} place @param {number} count @param {string[]} colours */
  #fillHeads(place, count, colours) {
    const shown = headsOf(place, count);
    const again = this.#heads.contains(focused(this.#heads));
    const chips = shown.map((head, at) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = colours[at];
      if (place.all) {
        const chip = this.#button("", { head, all: null });
        chip.className = "chip";
        chip.setAttribute("aria-label", `Head ${head} alone`);
        chip.append(swatch, String(head));
        for (const event of ["pointerenter", "focus"]) chip.addEventListener(event, () => this.#single(head));
        for (const event of ["pointerleave", "blur"]) chip.addEventListener(event, () => this.#single(null));
        return chip;
      }
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
    const room = !place.all && shown.length < Math.min(HEADS, count);
    this.#heads.replaceChildren(element("span", {}, shown.length > 1 ? "Heads" : "Head"), ...chips, ...(room ? [add] : []));
    if (again) /** @type {HTMLElement | null} */ (this.#heads.querySelector("select, button"))?.focus();
  }

  /** @param {Placed} place @param {string[]} keys */
  #fillWithout(place, keys) {
    const left = withoutOf(place);
    const again = this.#without.contains(focused(this.#without));
    const first = this.#button("Without the first token", asLeftOut(place, 0));
    first.className = "toggle";
    first.setAttribute("aria-pressed", String(left.includes(0)));
    first.title = "Leaves out the weight on the text’s first token, where heads rest that find nothing else, and scales "
      + "the others to sum to 100\u202f%. To leave out another key, hold it.";
    const others = left.filter((key) => key !== 0).map((key) => {
      const chip = this.#button("", asLeftOut(place, key));
      chip.className = "chip";
      chip.setAttribute("aria-label", `Take ${spelled(keys[key])} back in`);
      chip.append(element("bdi", {}, spelled(keys[key])), element("span", { class: "number" }, String(key)),
        element("span", { class: "away", "aria-hidden": "true" }, "✕"));
      return chip;
    });
    this.#without.replaceChildren(first, ...(others.length ? [element("span", {}, "and without"), ...others] : []));
    if (again) first.focus();
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
