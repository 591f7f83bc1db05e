/** The query–key view: one query, one key, and how the weight between them comes about, in numbers that add up. */

import { colours } from "../colours.js";
import { element, target } from "../dom.js";
import { counted, percent, plain } from "../numbers.js";
import { inside } from "../places.js";
import { tokenText } from "../tokens.js";
import { equation, signed } from "./product/equation.js";
import { pairOf } from "./product/pair.js";
import { drawn } from "./product/strips.js";
import { HEAVIEST, fillList, keysListed, queriesListed, tokenList } from "./product/tokens.js";
import { Vectors } from "./product/vectors.js";

/** @typedef {import("../payload.js").Layer} Layer */
/** @typedef {import("../state.js").Placed} Placed */

const LARGEST = 10;

class ProductView {
  #context;
  #title = element("div", { class: "head-title" });
  #pair = element("p", { class: "pair", "aria-live": "polite" });
  #equation = element("div", { class: "equation" });
  #strips = element("div", { class: "strips" });
  #why = element("p", { class: "hint" });
  #order = element("div", { class: "switch order", role: "group", "aria-label": "Order of the dimensions" });
  #queries = tokenList("Queries, the tokens that look");
  #keys = tokenList("Keys that this query sees");
  #fewer = element("p", { class: "hint" });
  #body;
  #lacking = element("div", { class: "lacking" });
  #asked = 0;
  /** @type {Shown | null} */
  #shown = null;
  /** @type {Row | null} */
  #row = null;
  #size = new ResizeObserver(() => this.#draw());

  /** @param {import("./index.js").Context} context */
  constructor(context) {
    this.#context = context;
    const { state } = context;
    this.#body = element("div", { class: "product" },
      heading("Query", this.#queries), heading("Key", this.#keys, this.#fewer), this.#pair, this.#why, this.#equation,
      this.#order, this.#strips);
    context.stage.append(this.#title, this.#lacking, this.#body);
    for (const [title, strips] of /** @type {[string, string | null][]} */ ([["By dimension", null], ["Largest first", "size"]])) {
      const button = element("button", { type: "button" }, title);
      button.addEventListener("click", () => state.go({ strips }));
      this.#order.append(button);
    }
    this.#listen(this.#queries, (query) => ({ query, key: null }));
    this.#listen(this.#keys, (at) => ({ query: this.#shown?.query, key: null, at }));
    this.#size.observe(this.#strips);
  }

  /** @param {Placed} place @param {Layer} layer */
  async update(place, layer) {
    const { payload, margin } = this.#context;
    const { position, name, kind } = layer.entry;
    const asked = ++this.#asked;
    this.#title.replaceChildren(
      element("h2", {}, `Layer ${position}, head ${place.head}`),
      element("p", {}, element("code", {}, name), kind === "cross" ? " cross-attention" : ""));
    const block = `vectors-${place.layer}-${place.head}`;
    const vectors = payload.has(block) ? await payload.block(block, (buffer) => new Vectors(buffer)) : null;
    if (asked !== this.#asked) return; // One has gone on meanwhile.
    const found = vectors && !vectors.without ? pairOf(place, layer, vectors) : null;
    this.#body.hidden = !found;
    this.#lacking.hidden = Boolean(found);
    if (!vectors || !found) {
      this.#shown = null;
      margin.replaceChildren();
      this.#lacking.replaceChildren(...(vectors ? [element("p", {}, vectors.without ?? "No query sees any key.")]
        : this.#elsewhere()));
      return;
    }
    const { rotary } = payload.contents;
    const turning = rotary?.of[place.layer] ?? null;
    const known = this.#row;
    if (known?.vectors !== vectors || known.query !== found.query) this.#row = rowOf(vectors, found.query);
    const row = /** @type {Row} */ (this.#row);
    this.#shown = lookedAt(layer, row, found.key, turning === null ? null : rotary?.kinds[turning] ?? null, place);
    this.#fill(this.#shown, row !== known);
    this.#draw();
  }

  unmount() {
    this.#asked++;
    this.#size.disconnect();
  }

  async picture() {
    const shown = this.#shown;
    if (!shown) throw new Error("There is nothing to be seen of this head.");
    const { position } = shown.layer.entry;
    return drawn(shown, 760, colours(this.#context.root), `Layer ${position}, head ${shown.head}`);
  }

  /** @param {Shown} shown @param {boolean} another whether its query is another than before */
  #fill(shown, another) {
    const { layer, vectors, query, key, steps, weights, terms } = shown;
    const texts = { queries: layer.queries, keys: layer.keys };
    if (another) {
      const around = queriesListed(query, layer.queries.length);
      fillList(this.#queries, around, texts.queries, layer.offset, query, null);
    }
    const listed = keysListed(weights, key);
    fillList(this.#keys, listed, texts.keys, 0, key, weights);
    this.#fewer.textContent = listed.length < weights.size
      ? `Listed are the heaviest ${HEAVIEST} of ${counted(weights.size, "key")}, and those around this one.` : "";
    this.#pair.replaceChildren(
      tokenText(texts.queries[query]), element("span", { class: "number" }, String(query + layer.offset)),
      element("span", { class: "verb" }, " looks at "),
      tokenText(texts.keys[key]), element("span", { class: "number" }, String(key)),
      element("span", { class: "verb" }, " with "),
      element("strong", { "data-weight": steps.weight }, percent(Math.min(1, steps.weight))));
    this.#equation.replaceChildren(...equation(steps, vectors).map(({ sign, value, says, name, exact }) =>
      element("span", { class: "step", "data-step": name, "data-value": exact },
        element("span", { class: "sum" }, sign ? element("i", {}, sign) : "", value),
        element("small", {}, says))));
    this.#why.replaceChildren(...why(shown));
    [...this.#order.children].forEach((button, n) => button.setAttribute("aria-pressed", String(shown.bySize === (n === 1))));
    this.#order.hidden = vectors.width === 0;
    this.#context.margin.replaceChildren(...this.#sum(shown));
    this.#context.margin.dataset.terms = String(terms.length);
  }

  /** The sum in numbers: the largest terms, the rest together, the whole. @param {Shown} shown */
  #sum({ vectors, terms, steps, apart, uncertain }) {
    if (!vectors.width) return [element("p", { class: "hint" }, "This model showed its scores alone: no q and no k.")];
    const turning = terms.some(({ together }) => together !== null);
    const sorted = [...terms].sort((a, b) => Math.abs(b.here) - Math.abs(a.here));
    const rest = sorted.slice(LARGEST);
    /** @param {import("./product/vectors.js").Term[]} some @param {"here" | "together"} which */
    const total = (some, which) => some.reduce((sum, term) => sum + (term[which] ?? term.here), 0);
    /** @param {string} name @param {import("./product/vectors.js").Term[]} some @param {string} [part] */
    const line = (name, some, part = "term") => {
      const [here, together] = [total(some, "here"), total(some, "together")];
      const cells = turning ? [together, here - together, here] : [here];
      return element("tr", { "data-part": part }, element("th", { scope: "row" }, name),
        ...cells.map((cell) => element("td", { "data-value": cell }, signed(cell, 2))));
    };
    const columns = turning ? ["side by side", "position’s part", "q·k"] : ["q·k"];
    const table = element("table", { class: "sum-table" },
      element("caption", {}, turning ? "The sum, pair by pair of dimensions" : "The sum, dimension by dimension"),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, turning ? "pair" : "dimension"),
        ...columns.map((column) => element("th", { scope: "col" }, column)))),
      element("tbody", {}, ...sorted.slice(0, LARGEST).map((term) => line(term.dimensions.join(", "), [term])),
        ...(rest.length ? [line(`${rest.length} others`, rest, "rest")] : []), line("Σ", terms, "total")));
    const off = `Vectors have 16 bits here: the score ${signed(steps.score, 2)} is right to ±${plain(uncertain)}.`;
    const part = `Each pair turns with its token’s place in the text. Side by side is what it would give if both tokens
      stood at one place; the rest is what their being ${counted(Math.abs(apart), "token")} apart adds.`;
    return [table, ...(turning ? [element("p", { class: "hint" }, part)] : []), element("p", { class: "hint" }, off)];
  }

  #draw() {
    const width = this.#strips.clientWidth;
    if (!this.#shown || !width) return;
    this.#strips.replaceChildren(drawn(this.#shown, width, colours(this.#context.root), null));
  }

  /** What is said where this head's vectors are not in the page, and which heads' are. */
  #elsewhere() {
    const { payload, state } = this.#context;
    const there = payload.contents.layers.flatMap(({ heads, position }, layer) =>
      Array.from({ length: heads }, (_, head) => ({ layer, head, position }))
        .filter(({ head }) => payload.has(`vectors-${layer}-${head}`)));
    const buttons = there.map(({ layer, head, position }) => {
      const button = element("button", { type: "button" }, `layer ${position} · head ${head}`);
      button.addEventListener("click", () => state.go({ layer, head, query: null, key: null, at: null }));
      return button;
    });
    const without = "This page does not hold the q and k of this head: they were left out to keep it small.";
    const live = "A notebook and clearhead serve have those of every head.";
    if (!there.length) return [element("p", {}, `${without} ${live}`)];
    return [element("p", {}, `${without} It has those of ${counted(there.length, "head")}, the strongest of each role:`),
      element("p", { class: "there" }, ...buttons), element("p", { class: "hint" }, live)];
  }

  /** @param {HTMLElement} list @param {(position: number) => Record<string, unknown>} change */
  #listen(list, change) {
    const { state } = this.#context;
    list.addEventListener("click", (event) => {
      const chip = target(event, "[data-position]");
      if (chip) state.go(change(Number(chip.dataset.position)));
    });
    list.addEventListener("keydown", (event) => {
      const chip = target(event, "[data-position]");
      const chips = /** @type {HTMLElement[]} */ ([...list.children]);
      const here = chip ? chips.indexOf(chip) : -1;
      const goal = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: chips.length - 1 }[event.key];
      if (here < 0 || goal === undefined || event.shiftKey) return;
      event.preventDefault();
      const next = chips[Math.min(Math.max(0, goal), chips.length - 1)];
      list.dataset.focus = "true";
      state.go(change(Number(next.dataset.position)));
    });
  }
}

/** @param {string} name @param {...HTMLElement} parts */
function heading(name, ...parts) {
  return element("section", { class: "choice" }, element("h3", {}, name), ...parts);
}

/** Why the weight is as large as it is: how its score stands to the others'. @param {Shown} shown */
function why({ layer, key, steps, row }) {
  const others = row.filter(({ position }) => position !== key);
  if (!others.length) return ["It sees no other key."];
  const best = others.reduce((one, other) => (other.score > one.score ? other : one));
  const [high, low] = steps.score >= best.score ? [steps.score, best.score] : [best.score, steps.score];
  const above = Math.exp(high - low);
  const times = `e^(${signed(high, 2)} − ${signed(low, 2)}) = ${above >= 1e6 ? "over a million times" : counted(Number(above.toPrecision(3)), "time")}`;
  const token = element("span", {}, tokenText(layer.keys[best.position]), element("span", { class: "number" }, ` ${best.position}`));
  return steps.score >= best.score
    ? [`Its score is the highest, ${signed(high, 2)}. The next, `, token, `, has ${signed(low, 2)}: it weighs ${times} less.`]
    : [`Its score is ${signed(low, 2)}. The highest, `, token, `, has ${signed(high, 2)}: it weighs ${times} as much.`];
}

/** What is shown of a query, whichever key. @param {Vectors} vectors @param {number} query */
function rowOf(vectors, query) {
  const row = vectors.visible(query).map((position) => ({ position, ...vectors.steps(query, position) }));
  return { vectors, query, row, weights: new Map(row.map(({ position, weight }) => [position, weight])) };
}

/** @typedef {ReturnType<typeof rowOf>} Row */

/**
 * All that is shown of a pair.
 * @param {Layer} layer
 * @param {Row} row
 * @param {number} key
 * @param {{frequencies: number[], neighbours: boolean} | null} turning
 * @param {Placed} place
 */
function lookedAt(layer, row, key, turning, place) {
  const { vectors, query } = row;
  const apart = key - query - layer.offset;
  return {
    ...row, layer, key, apart, head: place.head,
    bySize: place.strips === "size",
    steps: vectors.steps(query, key),
    terms: vectors.terms(query, key, apart, turning),
    uncertain: vectors.uncertainty(query, key),
  };
}

/** @typedef {ReturnType<typeof lookedAt>} Shown */

/** @type {import("./index.js").View} */
export const productView = {
  title: "Query · key",
  ofOneHead: true,
  mount: (context) => new ProductView(context),
  settle: (wish, place, payload) => ({
    at: inside(wish.at, payload.contents.texts[payload.contents.layers[place.layer].keys].length),
    strips: wish.strips === "size" ? "size" : null,
  }),
};
