/** The model view: all heads at once, as small maps or by a statistic, and what they do in plain words. */

import { element } from "../dom.js";
import { heatOver, scaleLine, statisticPicker } from "../heat.js";
import { counted, fine, percent } from "../numbers.js";
import { capital, clearly, habit, named, played, statistic, toldInOrder, valueText } from "../statistics.js";
import { fillSheet } from "../sheet.js";
import { paletteOf } from "./map/palette.js";
import { WallControls, showsMaps } from "./model/controls.js";
import { habitCards, headTold, paintThumbs } from "./model/habits.js";
import { inLayers, inOrder, spotsOf } from "./model/layout.js";
import { THUMB_CELLS, Thumbs } from "./model/thumbs.js";
import { Wall } from "./model/wall.js";

/** @typedef {import("../state.js").Placed} Placed */
/** @typedef {import("./model/layout.js").Spot} Spot */

class ModelView {
  #context;
  #thumbs;
  #wall;
  #cards;
  #controls;
  #scale = element("p", { class: "scale" });
  #missing = element("p", { class: "hint missing" });
  #size = new ResizeObserver(() => this.#arrange());
  /** @type {Placed | null} */
  #place = null;
  /** @type {Spot | null} */
  #told = null;
  #tinted;
  #width = 0;

  /** @param {import("./index.js").Context} context */
  constructor(context) {
    const { payload, root, stage, state } = this.#context = context;
    this.#tinted = paletteOf(root, state.place, null);
    this.#thumbs = new Thumbs(payload, this.#tinted.palette, () => this.#arrived());
    this.#wall = new Wall(root, this.#thumbs, {
      point: (spot) => this.#tell(spot),
      choose: ({ layer, head }) => state.go({ layer, head }),
      open: ({ layer, head }) => state.go({ view: "head", layer, head, query: null, key: null }),
    });
    this.#cards = habitCards(payload, {
      open: ({ layer, head }, role) => state.go({ view: "head", layer, head, by: role, query: null, key: null }),
      all: ({ layer, head }, role) => {
        state.go({ by: role, only: "1", layer, head, query: null, key: null });
        this.#controls.root.scrollIntoView({ block: "start" });
      },
      point: (spot) => {
        this.#wall.highlight(spot);
        this.#tell(spot);
      },
    });
    this.#controls = new WallControls(context);
    const measured = named(payload.contents.statistics);
    const roles = measured.roles.length > 0;
    stage.append(
      ...lead(payload),
      ...(roles ? [element("h2", { class: "part" }, "What heads do here, and which does it most"), this.#cards] : []),
      element("h2", { class: "part" }, "All heads"),
      ...(roles || measured.others.length ? [this.#controls.root] : []),
      this.#scale, this.#missing, this.#wall.root);
    this.#size.observe(this.#wall.root);
  }

  /** @param {Placed} place */
  update(place) {
    const before = this.#place;
    this.#place = place;
    const tinted = paletteOf(this.#context.root, place, this.#tinted);
    if (tinted !== this.#tinted) {
      this.#tinted = tinted;
      this.#thumbs.recolour(tinted.palette);
      this.#arrived();
    }
    this.#controls.update(place);
    if (before?.layer !== place.layer || before.head !== place.head) {
      this.#told = null;
      this.#tell(null);
    }
    this.#arrange(true);
  }

  unmount() {
    this.#place = null;
    this.#size.disconnect();
    this.#wall.close();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    this.#wall.walk(event);
  }

  async picture() {
    return this.#wall.picture(this.#width);
  }

  /** @param {boolean} [anew] even if there is as much room as there was */
  #arrange(anew = false) {
    const width = this.#wall.root.clientWidth;
    const place = this.#place;
    if (!place || !width || (width === this.#width && !anew)) return;
    this.#width = width;
    const { contents } = this.#context.payload;
    const { layers, statistics } = contents;
    const { by } = place;
    const maps = showsMaps(place, this.#context.payload);
    const [only, order] = [place.only === "1", place.order ?? "layers"];
    const heat = by ? heatOver(by, statistics[by]) : null;
    const shownHeat = maps && order === "role" ? null : heat; // its tiles tell of the role that they stand under
    const spots = spotsOf(layers);
    /** @param {Spot} spot */
    const kept = ({ layer, head }) => !only || clearly(played(statistics, by, layer, head));
    const layout = order === "layers"
      ? inLayers(layers.map(({ heads }) => heads), layers.map(({ position }) => String(position)), width, THUMB_CELLS)
      : inOrder(order === "role" ? byRole(statistics, spots.filter(kept)) : [["", strongestFirst(heat, spots.filter(kept))]],
        width, THUMB_CELLS);
    this.#wall.show({
      layout, maps, kept,
      heat: shownHeat ? ({ layer, head }) => shownHeat.of(statistics[by][layer][head]) : null,
      name: ({ layer, head }) => {
        const shown = order === "role" ? habit(statistics, layer, head)?.role : by;
        return `${layers[layer].position}·${head}${shown ? `  ${valueText(statistics, shown, layer, head)}` : ""}`;
      },
      says: (spot) => this.#says(spot, by),
    }, place);
    this.#scale.replaceChildren(...this.#scales(maps, shownHeat, by, "across" in layout ? Boolean(layout.across) : null));
    this.#missing.textContent = maps ? withoutMaps(this.#context.payload, this.#thumbs) : "";
    this.#missing.hidden = !this.#missing.textContent;
  }

  /** @param {Spot} spot @param {string} by */
  #says({ layer, head }, by) {
    const { layers, statistics } = this.#context.payload.contents;
    const where = `layer ${layers[layer].position}, head ${head}`;
    const told = by ? `: ${statistic(by).title} ${valueText(statistics, by, layer, head)}` : "";
    const best = habit(statistics, layer, head);
    return where + told + (best ? `; ${statistic(best.role).does ?? best.role}` : "");
  }

  /** @param {boolean} maps @param {import("../heat.js").Heat | null} heat @param {string} by @param {boolean | null} across */
  #scales(maps, heat, by, across) {
    const parts = [];
    if (across !== null) parts.push(element("span", {}, across ? "layers → heads ↓" : "layers ↓ heads →"));
    if (maps) {
      const [low] = this.#tinted.palette.ends(1);
      const least = low ? `≤ ${fine(low)} ` : "0 ";
      parts.push(element("span", {}, "share of a token’s weight: ", least, element("span", { class: "ramp" }), ` ${percent(1)}`));
    }
    if (heat && by) {
      const { title, write } = statistic(by);
      parts.push(element("span", {}, `${maps ? "line below: " : ""}${title} `, ...scaleLine(write, heat)));
    }
    return parts;
  }

  #arrived() {
    if (!this.#place) return; // What comes late must not be drawn into another view.
    this.#wall.redraw();
    paintThumbs(this.#cards, this.#thumbs);
    paintThumbs(this.#context.margin, this.#thumbs);
  }

  /** @param {Spot | null} spot */
  #tell(spot) {
    const { margin, payload } = this.#context;
    const at = spot ?? this.#told ?? this.#place;
    this.#told = spot ?? this.#told;
    if (!at) return;
    fillSheet(margin, headTold(payload, at), spot !== null, null);
    paintThumbs(margin, this.#thumbs);
  }
}

/** @param {import("../payload.js").Payload} payload @returns {HTMLElement[]} what this is, for one who has never seen it */
function lead({ contents: { layers, facts } }) {
  const heads = layers.reduce((sum, layer) => sum + layer.heads, 0);
  const reader = facts.Model ? ` of ${facts.Model.split(" (")[0]}` : "";
  return [
    element("p", { class: "lead" },
      `This is how ${counted(heads, "attention head")}${reader} read this text. A head is a habit of looking: ` +
      "for each token it says how much it looks at each other token."),
    element("p", { class: "hint" },
      "Each small square is one head: down, the tokens that look; across, the tokens looked at; " +
      "the stronger the colour, the more weight. Click one to see it from near."),
  ];
}

/** @param {import("../heat.js").Heat | null} heat @param {Spot[]} spots @returns {Spot[]} those without a number last */
function strongestFirst(heat, spots) {
  const places = new Map((heat?.order ?? []).map(({ layer, head }, n) => [`${layer}-${head}`, n]));
  /** @param {Spot} spot */
  const place = ({ layer, head }) => places.get(`${layer}-${head}`) ?? places.size;
  return [...spots].sort((a, b) => place(a) - place(b));
}

/**
 * @param {Record<string, (number | null)[][]>} table
 * @param {Spot[]} spots
 * @returns {[string, Spot[]][]} the heads by what they do most clearly, the clearest first
 */
function byRole(table, spots) {
  /** @type {Map<string, {spot: Spot, beyond: number}[]>} */
  const groups = new Map();
  for (const spot of spots) {
    const best = habit(table, spot.layer, spot.head);
    const role = best?.role ?? "";
    groups.set(role, [...(groups.get(role) ?? []), { spot, beyond: best?.beyond ?? 0 }]);
  }
  return [...toldInOrder(named(table).roles), ""].flatMap((role) => {
    const found = groups.get(role);
    if (!found) return [];
    const { does, title } = statistic(role);
    const heading = `${role ? capital(does ?? title) : "None of these clearly"} · ${counted(found.length, "head")}`;
    return [/** @type {[string, Spot[]]} */ ([heading, found.sort((a, b) => b.beyond - a.beyond).map(({ spot }) => spot)])];
  });
}

/** @param {import("../payload.js").Payload} payload @param {Thumbs} thumbs */
function withoutMaps({ contents: { layers } }, thumbs) {
  const lacking = layers.flatMap(({ position }, layer) => (thumbs.has(layer) ? [] : [position]));
  if (!lacking.length) return "";
  const which = lacking.length === 1 ? `layer ${lacking[0]}` : `layers ${lacking[0]} to ${lacking[lacking.length - 1]}`;
  return `The maps of ${which} did not fit into this page. A larger --budget holds them, and clearhead serve has all.`;
}

/** @type {import("./index.js").View} */
export const modelView = {
  title: "Model",
  keys: "← → ↑ ↓ from head to head · Enter opens it",
  mount: (context) => new ModelView(context),
  settle: (wish, { by }, { contents }) => ({
    wall: wish.wall === "heat" ? "heat" : null,
    order: wish.order === "strength" && by ? "strength" : wish.order === "role" && by ? "role" : null,
    only: wish.only === "1" && named(contents.statistics).roles.includes(by) ? "1" : null,
  }),
};
