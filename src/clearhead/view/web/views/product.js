/** The query–key view: one query, one key, and how the weight between them comes about, in numbers that add up. */

import { colours } from "../colours.js";
import { element, target } from "../dom.js";
import { counted, percent, plain } from "../numbers.js";
import { inside } from "../places.js";
import { spelled, tokenText } from "../tokens.js";
import { equation, signed } from "./equation.js";
import { drawn } from "./strips.js";
import { Vectors } from "./vectors.js";

/** @typedef {import("../payload.js").Layer} Layer */
/** @typedef {import("../state.js").Placed} Placed */

const SHOWN = 400; // Of more tokens than these, those around the chosen one and the heaviest are listed.
const AROUND = 30;
const HEAVIEST = 60;
const LARGEST = 10;

class ProductView {
  #context;
  #title = element("div", { class: "head-title" });
  #pair = element("p", { class: "pair", "aria-live": "polite" });
  #equation = element("div", { class: "equation" });
  #strips = element("div", { class: "strips" });
  #order = element("button", { type: "button", class: "order" });
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
      heading("Query", this.#queries), heading("Key", this.#keys, this.#fewer), this.#pair, this.#equation,
      this.#order, this.#strips);
    context.stage.append(this.#title, this.#lacking, this.#body);
    this.#order.addEventListener("click", () =>
      state.go({ strips: state.place.strips === "size" ? null : "size" }));
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
    const { rotary } = /** @type {{rotary?: import("./vectors.js").Rotary}} */ (/** @type {any} */ (payload.contents));
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
      const around = near(query, layer.queries.length);
      fillList(this.#queries, around, texts.queries, layer.offset, query, null);
    }
    const listed = some(weights, key);
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
    this.#order.textContent = shown.bySize ? "In the order of dimensions" : "Largest products first";
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
    /** @param {import("./vectors.js").Term[]} some @param {"here" | "together"} which */
    const total = (some, which) => some.reduce((sum, term) => sum + (term[which] ?? term.here), 0);
    /** @param {string} name @param {import("./vectors.js").Term[]} some @param {string} [part] */
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

/** @param {string} label */
function tokenList(label) {
  return element("div", { class: "token-list", role: "listbox", "aria-label": label });
}

/**
 * @param {HTMLElement} list
 * @param {number[]} positions
 * @param {string[]} texts
 * @param {number} offset
 * @param {number} chosen
 * @param {Map<number, number> | null} weights
 */
function fillList(list, positions, texts, offset, chosen, weights) {
  const chips = positions.map((position) => {
    const weight = weights?.get(position);
    const number = position + offset;
    const told = weight === undefined ? "" : `, ${percent(Math.min(1, weight))}`;
    const chip = element("span", { role: "option", "data-position": position, "aria-selected": position === chosen,
      tabindex: position === chosen ? 0 : -1, "aria-label": `${number}: ${spelled(texts[position])}${told}`,
      title: `${number}${told}` }, tokenText(texts[position]));
    chip.setAttribute("aria-selected", String(position === chosen));
    if (weight !== undefined) chip.style.setProperty("--weight", weight.toFixed(4));
    return chip;
  });
  list.replaceChildren(...chips);
  const at = chips[positions.indexOf(chosen)];
  if (!at) return;
  if (list.dataset.focus) at.focus({ preventScroll: true });
  delete list.dataset.focus;
  list.scrollTop = at.offsetTop - list.offsetTop - list.clientHeight / 2;
}

/** @param {number} position @param {number} count @returns {number[]} all, or those around it where there are many */
function near(position, count) {
  const all = count <= SHOWN;
  const first = all ? 0 : Math.max(0, position - SHOWN / 4);
  const last = all ? count : Math.min(count, position + SHOWN / 4);
  return Array.from({ length: last - first }, (_, n) => first + n);
}

/** @param {Map<number, number>} weights @param {number} key @returns {number[]} all keys, or the heaviest and those around */
function some(weights, key) {
  const keys = [...weights.keys()];
  if (keys.length <= SHOWN) return keys;
  const heavy = [...weights].sort((a, b) => b[1] - a[1]).slice(0, HEAVIEST).map(([position]) => position);
  const wanted = new Set([...heavy, ...keys.filter((other) => Math.abs(other - key) <= AROUND)]);
  return keys.filter((position) => wanted.has(position));
}

/**
 * The pair that is asked for, or a telling one.
 * @param {Placed} place
 * @param {Layer} layer
 * @param {Vectors} vectors
 * @returns {{query: number, key: number} | null} null if nobody sees anybody
 */
function pairOf(place, layer, vectors) {
  const { head } = place;
  if (place.query === null && place.key !== null) {
    const looking = layer.column(head, place.key)[0];
    if (looking) return { query: looking.position, key: place.key };
  }
  const query = place.query ?? telling(layer, head);
  const keys = vectors.visible(query);
  if (keys.includes(place.at)) return { query, key: place.at };
  const heaviest = layer.row(head, query);
  const key = (heaviest.find(({ position }) => isTelling(layer, query, position)) ?? heaviest[0])?.position ?? keys[0];
  if (key !== undefined) return { query, key };
  if (place.query === null) return null;
  return pairOf({ ...place, query: null }, layer, vectors);
}

/** A key that is neither the sink nor the query itself. @param {Layer} layer @param {number} query @param {number} key */
function isTelling(layer, query, key) {
  return key > 0 && !(layer.entry.kind === "self" && key === query + layer.offset);
}

/** @param {Layer} layer @param {number} head @returns {number} the query that looks hardest at a telling key */
function telling(layer, head) {
  let [best, most] = [layer.queries.length - 1, 0];
  layer.queries.forEach((_, query) => {
    const row = head * layer.queries.length + query;
    for (let at = layer.starts[row]; at < layer.starts[row + 1]; at++) {
      if (layer.weights[at] > most && isTelling(layer, query, layer.positions[at])) {
        [best, most] = [query, layer.weights[at]];
      }
    }
  });
  return best;
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
