/** A comparison: all heads in a grid, and beside it what changed, or one head of both runs side by side. */

import { factsAsList } from "./about.js";
import { Beside, paired, roomier } from "./beside.js";
import { Changes, offered, ranking, size, told } from "./changes.js";
import { element } from "./dom.js";
import { HeadGrid } from "./grid.js";
import { counted, plain } from "./numbers.js";
import { settle } from "./places.js";
import { SaveMenu } from "./save.js";
import { State } from "./state.js";
import { wholeText } from "./wholetext.js";
import { everyKey, viewTabs } from "./tabs.js";
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
  const layers = byLayer(contents);
  const grid = new HeadGrid(layers.map((heads, layer) =>
    ({ name: String(layer), title: heads[0].name, heads: heads.length })), (spot) => state.go({ ...spot }));
  const changes = new Changes(contents, state);
  const saving = new SaveMenu(root);
  const stage = element("main", { class: "stage" });
  /** @type {Beside | null} */
  let beside = null;

  /** @param {string} order */
  const colour = (order) => {
    const sizes = layers.map((heads) => heads.map((head) => size(head, order, contents)));
    const largest = Math.max(...sizes.flat());
    grid.colour(({ layer, head }) => {
      const value = sizes[layer][head];
      return value < 0 ? null : largest && value / largest;
    }, ({ layer, head }) => {
      const value = sizes[layer][head];
      return `layer ${layer}, head ${head}: ${value < 0 ? "no number" : plain(value)}`;
    });
  };

  /** @param {Placed} place */
  const update = async (place) => {
    by.value = place.by;
    says.textContent = told(place.by).says;
    colour(place.by);
    grid.choose(place);
    if (root.dataset.view !== place.view) {
      beside?.unmount();
      beside = place.view in CHANGES ? null : new Beside(root, contents.names, payloads, state, place.view);
      root.dataset.view = place.view;
      stage.replaceChildren(beside?.root ?? changes.root);
    }
    if (beside) await beside.update(place, () => place === state.place);
    else changes.update(place);
    saving.offer(beside?.picture.bind(beside) ?? null, `compare-${place.view}-layer${place.layer}-head${place.head}`);
    root.dataset.at = `#${state.address()}`;
  };

  const [a, b] = contents.names;
  root.replaceChildren(
    element("header", { class: "masthead" },
      element("div", { class: "names" },
        element("p", { class: "wordmark" }, "Clearhead"),
        element("h1", { dir: "auto" }, a, element("span", { class: "against" }, " → "), b),
        element("p", { class: "size" }, counted(contents.heads.length, "head")),
        ...payloads.slice(0, 1).flatMap((payload) => wholeText({
          ...payload.contents, title: "", read: readInAll(payloads),
        }))),
      saving.root, themeButton(state, { themed }),
      ...(Object.keys(tabs).length > 1 ? [viewTabs(tabs, state), everyKey(tabs, state)] : [])),
    element("div", { class: "body comparison" },
      element("section", { class: "chooser", "aria-label": "All heads" },
        element("div", { class: "pick by" }, element("label", { for: "by" }, "Sorted by"), by), says, grid.root),
      element("div", {}, stage, element("section", { class: "about" }, factsAsList(contents.facts)))));
  /** @type {Promise<void>} */
  let first = Promise.resolve();
  state.follow((place) => {
    first = update(place);
  });
  await first;
}

/** @param {Payload[]} payloads @returns {(string | null)[]} each text once */
const readInAll = (payloads) => [...new Set(payloads.flatMap(({ contents }) => contents.read ?? []))];

/** @param {Contents} contents @returns {Head[][]} its heads as [layer][head] */
function byLayer({ heads }) {
  /** @type {Head[][]} */
  const layers = [];
  for (const head of heads) (layers[head.layer] ??= [])[head.head] = head;
  return layers;
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
