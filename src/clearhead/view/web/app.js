/** The page around the views: title, chooser of heads, the view itself, and what the page holds. */

import { element, focused } from "./dom.js";
import { counted } from "./numbers.js";
import { SaveMenu } from "./save.js";
import { State } from "./state.js";
import { about } from "./about.js";
import { Chooser } from "./chooser.js";
import { settle } from "./places.js";
import { everyKey, viewTabs } from "./tabs.js";
import { wholeText } from "./wholetext.js";
import { themeButton } from "./theme.js";
import { views, viewsOf } from "./views/index.js";

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./frame.js").Frame} Frame */
/** @typedef {import("./state.js").Placed} Placed */

/** What the keys do where a view says nothing else. */
const HEAD_KEYS = "← → head · ⇧ ↑ ↓ layer · ↑ ↓ token · Enter holds it · Esc lets go";

/**
 * Shows a payload in a frame, and follows its address from then on.
 * @param {Frame} frame
 * @param {Payload} payload
 */
export async function show(frame, payload) {
  const { root } = frame;
  const state = new State((wish) => settle(wish, payload), frame.address);
  const chooser = new Chooser(root, payload, state);
  const saving = new SaveMenu(root);
  const stage = element("main", { class: "stage", tabindex: -1 });
  const margin = element("section", { class: "reading", "aria-label": "What is looked at" });
  const footer = about(payload.contents);
  root.replaceChildren(
    masthead(payload, state, frame, saving.root),
    element("div", { class: "body" }, chooser.root, stage,
      element("aside", { class: "margin" }, margin, footer)),
  );

  /** @type {import("./views/index.js").Mounted | null} */
  let mounted = null;
  let showing = "";
  /** @param {Placed} place */
  const update = async (place) => {
    const layer = await payload.layer(place.layer);
    if (place !== state.place) return; // One has gone on meanwhile.
    const came = showing !== place.view && showing !== "";
    if (showing !== place.view) {
      mounted?.unmount();
      stage.replaceChildren();
      margin.replaceChildren();
      margin.classList.remove("filled");
      root.dataset.view = showing = place.view;
      mounted = views[place.view].mount({ root, stage, margin, payload, state });
      /** @type {HTMLElement} */ (footer.querySelector(".keys-help")).textContent = views[place.view].keys ?? HEAD_KEYS;
    }
    chooser.update(place);
    mounted?.update(place, layer);
    saving.offer(mounted?.picture?.bind(mounted) ?? null, `${place.view}-layer${layer.entry.position}-head${place.head}`);
    if (came) arrive(root, stage);
    root.dataset.at = `#${state.address()}`;
  };
  const { gone } = frame;
  frame.keys.addEventListener("keydown", (event) => {
    const key = /** @type {KeyboardEvent} */ (event);
    if (event.target instanceof HTMLSelectElement || key.ctrlKey || key.metaKey || key.altKey) return;
    if (!event.defaultPrevented) mounted?.key?.(key);
    if (!event.defaultPrevented) step(key, state);
  }, { signal: gone });
  gone?.addEventListener("abort", () => mounted?.unmount());
  /** @type {Promise<void>} */
  let first = Promise.resolve();
  state.follow((place) => {
    first = update(place);
  });
  await first;
}

/** @param {Payload} payload @param {State} state @param {Frame} frame @param {HTMLElement} saving */
function masthead(payload, state, frame, saving) {
  const { title, layers, texts } = payload.contents;
  const heads = layers.reduce((sum, layer) => sum + layer.heads, 0);
  const tokens = Math.max(...layers.map(({ keys, added }) => texts[keys].length - added));
  const size = [counted(layers.length, "attention"), counted(heads, "head"), counted(tokens, "token")];
  const header = element("header", { class: "masthead" },
    element("div", { class: "names" },
      element("p", { class: "wordmark" }, "Clearhead"),
      element("h1", { dir: "auto" }, title),
      element("p", { class: "size" }, size.join(" · ")),
      ...wholeText(payload.contents)),
    ...(frame.address.link ? [linkButton(frame.address.link)] : []), saving, themeButton(state, frame));
  const there = viewsOf(payload);
  if (Object.keys(there).length > 1) header.append(viewTabs(there, state), everyKey(there, state));
  return header;
}

/** @param {() => string} link @returns {HTMLElement} a button that copies the address of this place */
function linkButton(link) {
  const button = element("button", { type: "button", class: "link" }, "Copy link");
  button.title = "It opens just this place, for whoever has the page.";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(link());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Copy it from the address bar";
    }
    window.setTimeout(() => (button.textContent = "Copy link"), 3000);
  });
  return button;
}

/**
 * Another view begins at its top, and has the keyboard if what had it is gone.
 * @param {HTMLElement} root
 * @param {HTMLElement} stage
 */
function arrive(root, stage) {
  root.scrollTop = 0;
  if (root.getBoundingClientRect().top < 0) root.scrollIntoView();
  if (!root.contains(focused(root))) stage.focus({ preventScroll: true });
}

/**
 * ← and → step through the heads, ⇧↑ and ⇧↓ through the layers, wherever one is.
 * @param {KeyboardEvent} event
 * @param {State} state
 */
function step(event, state) {
  const { layer, head } = state.place;
  if (event.key === "ArrowLeft") state.go({ head: Math.max(0, head - 1) });
  else if (event.key === "ArrowRight") state.go({ head: head + 1 });
  else if (event.shiftKey && event.key === "ArrowUp") state.go({ layer: Math.max(0, layer - 1) });
  else if (event.shiftKey && event.key === "ArrowDown") state.go({ layer: layer + 1 });
  else return;
  event.preventDefault();
}
