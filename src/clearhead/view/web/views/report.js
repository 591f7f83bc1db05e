/** The report: all heads in numbers, what they do, which are alike, what was left out, and what must not be read into it. */

import { caution, factList } from "../about.js";
import { colours } from "../colours.js";
import { element, svg, target } from "../dom.js";
import { counted } from "../numbers.js";
import { CLEARLY, capital, clearly, named, players, statistic, toldInOrder } from "../statistics.js";
import { clusterList, headPlane } from "./report/plane.js";
import { HeadTable } from "./report/table.js";

/** @typedef {import("../state.js").Placed} Placed */
/** @typedef {import("./model/layout.js").Spot} Spot */

const STRONGEST_TOLD = 3;
const COLUMN_SETS = { roles: "what heads do", others: "how they look", all: "all" };

class ReportView {
  #context;
  #table;
  #drawn = element("div", { class: "plane" });
  #set;
  #says = element("p", { class: "hint" });
  #colours = "";
  #shown = "";

  /** @param {import("./index.js").Context} context */
  constructor(context) {
    const { payload, stage, state } = this.#context = context;
    const { contents } = payload;
    this.#table = new HeadTable(contents, {
      open: (spot) => this.#open(spot),
      sort: (sort) => {
        const { place } = state;
        const again = sortOf(place, contents) === sort;
        state.go({ sort, rising: (again ? place.rising !== "1" : sort === "head") ? "1" : null });
      },
    });
    this.#set = element("select", { "aria-label": "Columns" },
      ...Object.entries(COLUMN_SETS).map(([value, text]) => element("option", { value }, text)));
    this.#set.addEventListener("change", () => state.go({ columns: this.#set.value }));
    const { roles, others } = named(contents.statistics);
    stage.append(element("div", { class: "report" },
      ...(roles.length ? [reportPart("What heads do", "roles", this.#roles(roles))] : []),
      ...(roles.length + others.length ? [reportPart("All heads in numbers", "table",
        element("div", { class: "wall-controls" }, element("label", {}, element("span", {}, "Columns"), this.#set)),
        this.#says, this.#table.root)] : []),
      reportPart("Heads that are alike", "alike", ...this.#likeness()),
      reportPart("What was seen, and what was left out", "facts", factList(contents), ...leftOut(payload)),
      reportPart("Attention is not explanation", "caution", ...caution()),
    ));
  }

  /** @param {Placed} place */
  update(place) {
    const { payload, root } = this.#context;
    const { low, high } = colours(root);
    const { likeness } = payload.contents;
    if (likeness && !likeness.without && this.#colours !== low + high) {
      this.#colours = low + high;
      const drawing = headPlane(likeness, (spot) => this.#name(spot), root);
      drawing.setAttribute("role", "img");
      drawing.setAttribute("aria-label", `Heads as points, near one another if they are alike. ${likeness.verdict}`);
      this.#drawn.replaceChildren(drawing);
    }
    const { roles, others } = named(payload.contents.statistics);
    if (!roles.length && !others.length) return;
    const set = columnsOf(place, payload.contents);
    const sorted = {
      columns: set === "roles" ? roles : set === "others" ? others : [...roles, ...others],
      sort: sortOf(place, payload.contents),
      rising: place.rising === "1",
    };
    this.#set.value = set;
    if (this.#shown === JSON.stringify(sorted)) return;
    this.#shown = JSON.stringify(sorted);
    this.#says.textContent = sorted.sort === "head" ? "In the model’s order."
      : `Sorted by ${statistic(sorted.sort).title}: ${statistic(sorted.sort).says}.`;
    this.#table.show(sorted);
  }

  unmount() {
    this.#table.close();
  }

  /** What heads do as bars, and the plane below. */
  async picture() {
    const { payload, root } = this.#context;
    const { statistics, likeness } = payload.contents;
    const { roles } = named(statistics);
    const own = colours(root);
    const bars = toldInOrder(roles).map((role) => players(statistics, role)[0]);
    const points = likeness && !likeness.without ? headPlane(likeness, (spot) => this.#name(spot), root) : null;
    const top = 24 * bars.length + 20;
    const height = top + (points ? 400 : 0);
    const drawn = svg("svg", {
      xmlns: "http://www.w3.org/2000/svg", width: 560, height, viewBox: `0 0 560 ${height}`,
      "font-family": "Helvetica, Arial, sans-serif", "font-size": 12,
    }, svg("rect", { width: 560, height, fill: own.paper }));
    bars.forEach((best, n) => {
      const y = 24 * n + 24;
      const { title, write } = statistic(best.role);
      drawn.append(
        svg("text", { x: 12, y, fill: own.ink }, title),
        svg("text", { x: 150, y, fill: own.muted }, this.#name(best)),
        svg("rect", { x: 210, y: y - 10, width: 250, height: 10, fill: own.low }),
        svg("rect", { x: 210, y: y - 10, width: 250 * best.value, height: 10, fill: own.hue }),
        svg("rect", { x: 210 + 250 * best.chance - 1, y: y - 12, width: 2, height: 14, fill: own.ink }),
        svg("text", { x: 470, y, fill: own.ink }, write(best.value)));
    });
    if (points) {
      points.setAttribute("y", String(top));
      drawn.append(points);
    }
    return drawn;
  }

  /** @param {string[]} roles */
  #roles(roles) {
    const { statistics } = this.#context.payload.contents;
    const lines = toldInOrder(roles).map((role) => {
      const playing = players(statistics, role);
      const { title, says, does, write } = statistic(role);
      const clear = playing.filter(clearly).length;
      const heads = playing.slice(0, STRONGEST_TOLD).map((one) => {
        const button = element("button", { type: "button" }, element("b", {}, this.#name(one)), ` ${write(one.value)}`);
        button.addEventListener("click", () => this.#open(one, role));
        return button;
      });
      return element("tr", { "data-role": role },
        element("th", { scope: "row", title: says }, capital(does ?? title), element("span", { class: "term" }, title)),
        element("td", { class: "who" }, ...heads),
        element("td", {}, write(playing[0].chance)),
        element("td", {}, String(clear)));
    });
    const table = element("table", {},
      element("thead", {}, element("tr", {}, ...["Role", "Strongest heads", "A uniform head", "Heads that do it clearly"]
        .map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...lines));
    return element("div", { class: "roles-table" }, table, element("p", { class: "hint" },
      `Clearly: at least ${100 * CLEARLY}\u202f% of the way from a uniform head’s score to 100\u202f%. ` +
      "A score is the mean, over the queries that have such a key, of the weight on it."));
  }

  #likeness() {
    const { likeness } = this.#context.payload.contents;
    if (!likeness) return [element("p", {}, "Heads were not compared for this page.")];
    if (likeness.without) return [element("p", {}, capital(likeness.without))];
    this.#drawn.addEventListener("click", (event) => {
      const point = target(event, "circle");
      if (point) this.#open({ layer: Number(point.dataset.layer), head: Number(point.dataset.head) });
    });
    const share = Math.round(100 * likeness.kept);
    return [
      element("p", {}, likeness.verdict),
      element("div", { class: "alike" }, this.#drawn,
        element("div", {},
          element("h3", {}, likeness.clusters.length ? "These look at the same tokens" : "No two look at the same tokens"),
          clusterList(likeness, (spot) => this.#name(spot), (spot) => this.#open(spot)),
          element("p", { class: "hint" },
            "A point is a head; those of early layers are faint, of late ones strong. Points that lie together look at " +
            `the same tokens. The plane keeps ${share}\u202f% of the squared distances, so trust the list more than the eye.`))),
    ];
  }

  /** @param {Spot} spot */
  #name({ layer, head }) {
    return `${this.#context.payload.contents.layers[layer].position}·${head}`;
  }

  /** @param {Spot} spot @param {string} [role] */
  #open({ layer, head }, role) {
    this.#context.state.go({ view: "head", layer, head, query: null, key: null, ...(role ? { by: role } : {}) });
  }
}

/** @param {string} title @param {string} name @param {...HTMLElement} inside */
function reportPart(title, name, ...inside) {
  return element("section", { class: `report-${name}`, "aria-label": title },
    element("h2", { class: "part" }, title), ...inside);
}

/** @param {import("../payload.js").Payload} payload @returns {HTMLElement[]} what else the page holds, and what not */
function leftOut(payload) {
  const { layers, live } = payload.contents;
  if (live) return [element("p", { class: "hint" }, "Any row, map and vector is computed when you look at it.")];
  const lacking = layers.filter((_, layer) => !payload.has(`thumbs-${layer}`)).length;
  const maps = lacking ? ` The small maps of ${counted(lacking, "layer")} did not fit.` : "";
  return [element("p", { class: "hint" },
    `A saved page holds what fits its budget: first each query’s heaviest keys, then small maps of all heads, then maps ` +
    `and vectors of the clearest heads.${maps} A larger --budget holds more, and clearhead serve computes all of it.`)];
}

/** @param {Record<string, unknown>} place @param {import("../payload.js").Contents} contents */
function columnsOf(place, { statistics }) {
  const { roles, others } = named(statistics);
  const sets = [...(roles.length ? ["roles"] : []), ...(others.length ? ["others"] : []), "all"];
  return sets.find((set) => set === place.columns) ?? sets[0];
}

/** @param {Record<string, unknown>} place @param {import("../payload.js").Contents} contents */
function sortOf(place, { statistics }) {
  const { roles, others } = named(statistics);
  return ["head", ...roles, ...others].find((name) => name === place.sort) ?? toldInOrder(roles)[0] ?? "head";
}

/** @type {import("./index.js").View} */
export const reportView = {
  title: "Report",
  mount: (context) => new ReportView(context),
  settle: (wish, _place, { contents }) => {
    const { roles, others } = named(contents.statistics);
    const columns = String(wish.columns ?? "");
    return {
      sort: ["head", ...roles, ...others].find((name) => name === wish.sort) ?? null,
      rising: wish.rising === "1" ? "1" : null,
      columns: columns in COLUMN_SETS && columns !== columnsOf({}, contents) ? columns : null,
    };
  },
};
