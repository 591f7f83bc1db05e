/** The page in a notebook's cell: in a shadow tree of its own, its blocks from the notebook or from the kernel. */

import { element } from "./dom.js";
import { measure } from "./frame.js";
import { Payload } from "./payload.js";
import { show } from "./app.js";
import { systemIsDark } from "./theme.js";

/**
 * @typedef {object} Model what anywidget gives: traits that Python shares, and messages to the kernel
 * @property {(trait: string) => any} get
 * @property {(trait: string, value: unknown) => void} set
 * @property {() => void} save_changes
 * @property {(content: unknown) => void} send
 * @property {(event: string, heard: (...told: any[]) => void) => void} on
 * @property {(event: string, heard: (...told: any[]) => void) => void} off
 */

/** The kernel may be far away, and none answers from a notebook that is only read. */
const PATIENCE = 30000; // ms

/**
 * @param {{model: Model, el: HTMLElement}} cell
 * @returns {() => void} lets go of the cell
 */
function render({ model, el }) {
  // Notebooks lay out their own element. What is fixed to the window is so to ours, and the page scrolls within.
  const host = element("div", { "data-lm-suppress-shortcuts": "true" }); // JupyterLab's, of the keys that we hear
  Object.assign(host.style, { contain: "layout", height: `${model.get("height")}px` });
  el.replaceChildren(host);
  const shadow = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(model.get("sheet"));
  shadow.adoptedStyleSheets = [sheet];

  const kernel = new Kernel(model);
  let inside = new AbortController();
  const fill = async () => {
    inside.abort();
    inside = new AbortController();
    const root = element("div", { class: "clearhead cell", tabindex: -1 });
    Object.assign(root.style, { height: "100%", overflow: "auto" });
    root.style.setProperty("--tall", `${model.get("height")}px`);
    shadow.replaceChildren(root);
    measure(root);
    const contents = { ...JSON.parse(model.get("contents")), live: kernel.there };
    try {
      await show(frame(root, model, inside.signal), new Payload(contents, kernel));
    } catch (error) {
      root.replaceChildren(element("p", { class: "broken", role: "alert" }, `This cell cannot be shown. ${error}`));
      throw error;
    }
  };
  kernel.answers(fill); // with all that it can make
  fill();
  return () => {
    inside.abort();
    kernel.leave();
    host.remove();
  };
}

/**
 * @param {HTMLElement} root
 * @param {Model} model
 * @param {AbortSignal} gone
 * @returns {import("./frame.js").Frame}
 */
function frame(root, model, gone) {
  const around = /** @type {HTMLElement} */ (/** @type {ShadowRoot} */ (root.getRootNode()).host);
  return {
    root,
    themed: root,
    keys: root,
    address: {
      read: () => model.get("place"),
      write: (place) => {
        if (gone.aborted || place === model.get("place")) return;
        model.set("place", place);
        model.save_changes();
      },
      listen: (heard) => {
        model.on("change:place", heard);
        gone.addEventListener("abort", () => model.off("change:place", heard));
      },
    },
    dark: () => isDark(around),
    gone,
  };
}

/** @param {HTMLElement} cell @returns {boolean} whether what it stands on is dark, whoever chose that */
function isDark(cell) {
  for (let on = cell.parentElement; on; on = on.parentElement) {
    const [red, green, blue, opacity = 1] = (getComputedStyle(on).backgroundColor.match(/[\d.]+/g) ?? []).map(Number);
    if (opacity > 0.5) return 0.3 * red + 0.6 * green + 0.1 * blue < 128;
  }
  return systemIsDark();
}

/** The blocks: some lie in the notebook, the kernel that made it can make any. */
class Kernel {
  #model;
  #saved;
  /** @type {Map<string, {resolve: (packed: Uint8Array) => void, reject: (why: Error) => void}>} */
  #asked = new Map();
  /** @type {() => void} */
  #answered = () => {};
  there = false;

  /** @param {Model} model */
  constructor(model) {
    this.#model = model;
    this.#saved = model.get("blocks");
    model.on("msg:custom", this.#hear);
    model.send({ there: null });
  }

  /** @param {() => void} answered is called once, when it is known that there is one */
  answers(answered) {
    this.#answered = answered;
  }

  leave() {
    this.#model.off("msg:custom", this.#hear);
    this.#answered = () => {};
  }

  /** @param {string} name */
  has(name) {
    return name in this.#saved || this.there;
  }

  /** @param {string} name @returns {Promise<Uint8Array>} */
  packed(name) {
    if (name in this.#saved) return Promise.resolve(bytesOf(this.#saved[name]));
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        this.#asked.delete(name);
        reject(new Error(`The kernel did not answer within ${PATIENCE / 1000} s; it may be busy.`));
      }, PATIENCE);
      this.#asked.set(name, {
        resolve: (packed) => (clearTimeout(late), resolve(packed)),
        reject: (why) => (clearTimeout(late), reject(why)),
      });
      this.#model.send({ block: name });
    });
  }

  /** @param {{there?: boolean, block?: string, said?: string}} told @param {DataView[]} [buffers] */
  #hear = (told, buffers = []) => {
    if (told.there && !this.there) {
      this.there = true;
      this.#answered();
    }
    const asked = this.#asked.get(told.block ?? "");
    if (!asked) return; // By another view of the same cell.
    this.#asked.delete(told.block ?? "");
    if (told.said === undefined) asked.resolve(bytesOf(buffers[0]));
    else asked.reject(new Error(told.said));
  };
}

/** @param {DataView} view */
const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

export default { render };
