/** A comparison: all heads in a grid, and beside it what changed, or one head of both runs side by side. */

import { Beside, paired, roomier } from "./beside.js";
import { Changes, offered, ranking, size, told } from "./changes.js";
import { element } from "./dom.js";
import { counted, plain } from "./numbers.js";
import { settle } from "./places.js";
import { State } from "./state.js";
import { viewTabs } from "./tabs.js";
import { themeButton } from "./theme.js";

/** @typedef {import("./changes.js").Contents} Contents */
/** @typedef {import("./changes.js").Head} Head */
/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./state.js").Placed} Placed */

const CHANGES = { changes: { title: "What changed" } };

/**
 * @param {import("./frame.js").Frame} frame
 * @param {Contents} contents
 * @param {Payload[]} payloads of the two runs; none if nothing can be seen of them
 */
export async function showComparison({ root, themed, address }, contents, payloads) {
  const tabs = { ...CHANGES, ...(payloads.length ? paired : {}) };
  const state = new State((wish) => settleOn(wish, contents, payloads, Object.keys(tabs)), address);
  const says = element("p", { class: "says" });
  const by = element("select", { id: "by" }, ...Object.keys(offered(contents)).map((name) =>
    element("option", { value: name }, told(name).title)));
  by.addEventListener("change", () => state.go({ by: by.value }));
  const grid = gridOfHeads(contents, state);
  const changes = new Changes(contents, state);
  const stage = element("main", { class: "stage" });
  /** @type {Beside | null} */
  let beside = null;

  /** @param {Placed} place */
  const update = async (place) => {
    by.value = place.by;
    says.textContent = told(place.by).says;
    grid.update(place);
    if (root.dataset.view !== place.view) {
      beside?.unmount();
      beside = place.view in CHANGES ? null : new Beside(root, contents.names, payloads, state, place.view);
      root.dataset.view = place.view;
      stage.replaceChildren(beside?.root ?? changes.root);
    }
    if (beside) await beside.update(place, () => place === state.place);
    else changes.update(place);
    root.dataset.at = `#${state.address()}`;
  };

  const [a, b] = contents.names;
  root.replaceChildren(
    element("header", { class: "masthead" },
      element("div", { class: "names" },
        element("p", { class: "wordmark" }, "Clearhead"),
        element("h1", { dir: "auto" }, a, element("span", { class: "against" }, " → "), b),
        element("p", { class: "size" }, counted(contents.heads.length, "head"))),
      themeButton(state, { themed }),
      ...(Object.keys(tabs).length > 1 ? [viewTabs(tabs, state)] : [])),
    element("div", { class: "body comparison" },
      element("section", { class: "chooser", "aria-label": "All heads" },
        element("div", { class: "pick by" }, element("label", { for: "by" }, "Sorted by"), by), says, grid.root),
      element("div", {}, stage, facts(contents.facts))));
  /** @type {Promise<void>} */
  let first = Promise.resolve();
  state.follow((place) => {
    first = update(place);
  });
  await first;
}

/** @param {Contents} contents @param {State} state */
function gridOfHeads(contents, state) {
  /** @type {Map<number, Head[]>} */
  const layers = new Map();
  for (const head of contents.heads) layers.set(head.layer, [...(layers.get(head.layer) ?? []), head]);
  const root = element("div", { class: "heads", role: "grid", "aria-label": "All heads" });
  root.style.setProperty("--heads", String(Math.max(...[...layers.values()].map((heads) => heads.length))));
  /** @type {Map<Head, HTMLElement>} */
  const cells = new Map();
  for (const [layer, heads] of layers) {
    const row = element("div", { role: "row" },
      element("span", { role: "rowheader", title: heads[0].name }, String(layer)));
    for (const head of heads) {
      const cell = element("button", { type: "button", role: "gridcell" });
      cell.addEventListener("click", () => state.go({ layer: head.layer, head: head.head }));
      cells.set(head, cell);
      row.append(cell);
    }
    root.append(row);
  }
  /** @param {Placed} place */
  const update = (place) => {
    const sizes = contents.heads.map((head) => size(head, place.by, contents));
    const largest = Math.max(...sizes);
    contents.heads.forEach((head, index) => {
      const cell = /** @type {HTMLElement} */ (cells.get(head));
      cell.style.setProperty("--heat", String(largest > 0 ? Math.max(0, sizes[index]) / largest : 0));
      cell.toggleAttribute("data-none", sizes[index] < 0);
      cell.setAttribute("aria-selected", String(head.layer === place.layer && head.head === place.head));
      cell.title = `layer ${head.layer}, head ${head.head}: ${sizes[index] < 0 ? "no number" : plain(sizes[index])}`;
    });
  };
  return { root, update };
}

/** @param {Record<string, string>} known */
function facts(known) {
  const list = element("dl");
  for (const [name, value] of Object.entries(known)) {
    list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  }
  return element("section", { class: "about" }, list);
}

/**
 * @param {Record<string, unknown>} wish
 * @param {Contents} contents
 * @param {Payload[]} payloads
 * @param {string[]} tabs
 * @returns {Placed} the nearest that there is
 */
function settleOn(wish, contents, payloads, tabs) {
  const { heads } = contents;
  const by = Object.keys(offered(contents)).find((name) => name === wish.by) ?? contents.by;
  const wanted = heads.find(({ layer, head }) => layer === Number(wish.layer) && head === Number(wish.head));
  const { layer, head } = wanted ?? ranking(contents, by)[0];
  const view = tabs.find((name) => name === wish.view) ?? tabs[0];
  if (payloads.length) return { ...settle({ ...wish, layer, head }, roomier(payloads)), view, by };
  const theme = wish.theme === "light" || wish.theme === "dark" ? wish.theme : null;
  return { view, layer, head, query: null, key: null, by, theme };
}
