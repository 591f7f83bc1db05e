/** The map view: a head as a picture that can be zoomed, from all its weights at once down to single ones. */

import { colours } from "../colours.js";
import { element } from "../dom.js";
import { pressTone, toneSwitch } from "../tone.js";
import { fillSheet, keepAbove } from "../sheet.js";
import { Camera } from "./map/camera.js";
import { Outline } from "./map/outline.js";
import { mapLegend, mapRemark } from "./map/legend.js";
import { paintCross, paintMap, paintRulers } from "./map/paint.js";
import { paletteOf } from "./map/palette.js";
import { mapDrawing } from "./map/drawing.js";
import { mapGestures } from "./map/gestures.js";
import { asHeld, settleMap, spotOf } from "./map/place.js";
import { mapInvitation, readout } from "./map/readout.js";
import { CELLS, Tiles } from "./map/tiles.js";

/** @typedef {import("../payload.js").Layer} Layer */
/** @typedef {import("../state.js").Placed} Placed */
/** @typedef {import("./map/place.js").Pair} Pair */

/** Room for the rulers, px; less where there is little. */
const RULER = 76;
const NARROW_RULER = 50;
/** How long one must rest before the place is kept in the address, ms. */
const REST = 200;

class MapView {
  #context;
  #title = element("div", { class: "head-title" });
  #legend = element("p", { class: "map-legend" });
  #tone;
  #note = element("p", { class: "map-note", role: "status" });
  #canvas = element("canvas", {
    class: "map", tabindex: 0, role: "application",
    "aria-label": "Map of the head’s weights: queries down, keys across",
    "aria-description": "Arrow keys move from cell to cell, with Shift the whole map; plus and minus zoom, "
      + "0 shows all, Enter holds a cell, Escape lets go",
  });
  #camera = new Camera();
  #tiles;
  #tinted;
  /** @type {Outline | null} */
  #outline = null;
  /** @type {number | null} */
  #outlined = null;
  /** @type {Layer | null} */
  #layer = null;
  #head = 0;
  /** @type {Pair | null} */
  #held = null;
  /** @type {Pair | null} */
  #pointed = null;
  #told = "";
  #written = "";
  #side = 1;
  #zoomed = 0;
  #drawing = 0;
  /** @type {number | undefined} */
  #resting;
  #outside = new AbortController();

  /** @param {import("./index.js").Context} context */
  constructor(context) {
    this.#context = context;
    this.#tiles = new Tiles(context.payload, () => this.#redraw());
    this.#tinted = paletteOf(context.root, context.state.place, null);
    const button = (/** @type {string} */ label, /** @type {string} */ text, /** @type {() => void} */ press) => {
      const made = element("button", { type: "button", "aria-label": label, title: label }, text);
      made.addEventListener("click", press);
      return made;
    };
    this.#tone = toneSwitch(context.state);
    context.stage.append(this.#title,
      element("div", { class: "map-tools" },
        button("Zoom out", "−", () => this.#zoom(1 / 2)), button("Zoom in", "+", () => this.#zoom(2)),
        button("Show the whole map", "Whole", () => this.#whole()), element("span", { class: "tone-name" }, "Scale"), this.#tone,
        this.#legend),
      element("p", { class: "map-fingers" }, "Two fingers move and zoom the map; tap a cell to hold it."),
      element("div", { class: "map-area" }, this.#canvas), this.#note);
    context.margin.setAttribute("aria-live", "polite");

    const { signal } = this.#outside;
    const size = new ResizeObserver(() => this.#measure());
    size.observe(this.#canvas);
    signal.addEventListener("abort", () => size.disconnect());
    mapGestures(this.#canvas, {
      pan: (dx, dy) => this.#moved(() => this.#camera.pan(dx, dy)),
      zoom: (factor, x, y) => this.#moved(() => this.#camera.zoom(factor, x - this.#ruler, y - this.#ruler)),
      point: (x, y) => this.#point(this.#pairAt(x, y)),
      leave: () => this.#point(null),
      press: (x, y) => this.#hold(this.#pairAt(x, y)),
      key: (event) => this.#key(event),
    });
  }

  /** @param {Placed} place @param {Layer} layer */
  update(place, layer) {
    const { contents } = this.#context.payload;
    const { position, name, kind } = layer.entry;
    const pattern = contents.patterns?.[place.layer] ?? null;
    this.#layer = layer;
    this.#head = place.head;
    this.#tiles.show(place.layer, layer, place.head);
    if (this.#camera.show(layer.queries.length, layer.keys.length)) this.#written = "";
    this.#follow(place);
    this.#tint(place);
    this.#trace(pattern?.layer ?? null);
    this.#held = spotOf(place.spot);
    this.#title.replaceChildren(
      element("h2", {}, `Layer ${position}, head ${place.head}`),
      element("p", {}, element("code", {}, name), kind === "cross" ? " cross-attention" : "",
        pattern?.says ? ` · ${pattern.says}` : ""));
    this.#told = "";
    this.#tell();
    this.#redraw();
  }

  unmount() {
    this.#outside.abort();
    window.clearTimeout(this.#resting);
    cancelAnimationFrame(this.#drawing);
  }

  /** @returns {Promise<SVGElement>} */
  async picture() {
    const layer = /** @type {Layer} */ (this.#layer);
    return mapDrawing(this.#camera, this.#tiles, this.#tinted.palette, this.#outline, layer, this.#head,
      colours(this.#context.root), RULER);
  }

  /** Where the address says one is, unless one has just said so oneself. @param {Placed} place */
  #follow(place) {
    const said = [place.x, place.y, place.zoom].join();
    if (said === this.#written) return;
    this.#written = said;
    if (place.zoom === null) this.#camera.fit();
    else this.#camera.look(place.x, place.y, this.#camera.scaleOf(place.zoom));
  }

  /** @param {Placed} place */
  #tint(place) {
    pressTone(this.#tone, place);
    this.#tinted = paletteOf(this.#context.root, place, this.#tinted);
  }

  /** @param {number | null} of the layer whose pattern it is */
  #trace(of) {
    if (of === this.#outlined) return;
    const { payload } = this.#context;
    this.#outlined = of;
    this.#outline = null;
    const name = `pattern-${of}`;
    if (of === null || !payload.has(name)) return;
    payload.block(name, (buffer) => new Outline(buffer)).then((outline) => {
      if (this.#outlined !== of) return;
      this.#outline = outline;
      this.#told = "";
      this.#tell();
      this.#redraw();
    });
  }

  get #ruler() {
    return this.#canvas.clientWidth < 480 ? NARROW_RULER : RULER;
  }

  #measure() {
    const { clientWidth, clientHeight } = this.#canvas;
    if (!clientWidth) return;
    this.#camera.resize(clientWidth - this.#ruler, clientHeight - this.#ruler);
    const place = this.#context.state.place;
    this.#written = "";
    this.#follow(place); // a link's place is of tokens, whatever the window's size
    this.#redraw();
  }

  /** @param {() => void} move */
  #moved(move) {
    move();
    window.clearTimeout(this.#resting);
    this.#resting = window.setTimeout(() => this.#keep(), REST);
    this.#redraw();
  }

  /** Keeps the place in the address. */
  #keep() {
    const { whole, centre, span } = this.#camera;
    const tenth = (/** @type {number} */ at) => Number(at.toFixed(1));
    const place = whole ? { x: null, y: null, zoom: null }
      : { x: tenth(centre.x), y: tenth(centre.y), zoom: tenth(span) };
    this.#written = [place.x, place.y, place.zoom].join();
    this.#context.state.go(place);
  }

  /** @param {number} factor about the cell that is pointed at, or the middle */
  #zoom(factor) {
    const { width, height } = this.#camera;
    const at = this.#held ?? this.#pointed;
    const [x, y] = at ? [this.#camera.x(at.key + 0.5), this.#camera.y(at.query + 0.5)] : [width / 2, height / 2];
    this.#moved(() => this.#camera.zoom(factor, Math.min(Math.max(0, x), width), Math.min(Math.max(0, y), height)));
  }

  #whole() {
    this.#moved(() => this.#camera.fit());
  }

  /** @param {number} x px in the canvas @param {number} y @returns {Pair | null} */
  #pairAt(x, y) {
    const [px, py] = [x - this.#ruler, y - this.#ruler];
    const [query, key] = [Math.floor(this.#camera.query(py)), Math.floor(this.#camera.key(px))];
    const inside = px >= 0 && py >= 0 && query < this.#camera.rows && key < this.#camera.columns;
    return inside ? { query, key } : null;
  }

  /** @param {Pair | null} pair */
  #point(pair) {
    if (pair?.query === this.#pointed?.query && pair?.key === this.#pointed?.key) return;
    this.#pointed = pair;
    this.#redraw();
  }

  /** @param {Pair | null} pair */
  #hold(pair) {
    const again = pair && this.#held && this.#cell(pair).top === this.#cell(this.#held).top
      && this.#cell(pair).left === this.#cell(this.#held).left;
    this.#pointed = pair;
    this.#context.state.go(pair && !again ? asHeld(pair) : { spot: null });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const { width, height } = this.#camera;
    if (step && event.shiftKey) this.#moved(() => this.#camera.pan(step[1] * width / 4, step[0] * height / 4));
    else if (step) this.#walk(step[0], step[1]);
    else if (event.key === "+" || event.key === "=") this.#zoom(2);
    else if (event.key === "-" || event.key === "_") this.#zoom(1 / 2);
    else if (event.key === "0") this.#whole();
    else if (event.key === "Enter" || event.key === " ") this.#hold(this.#pointed ?? this.#held);
    else if (event.key === "Escape") {
      this.#pointed = null;
      this.#hold(null);
    } else return;
    event.preventDefault();
  }

  /** @param {number} down cells @param {number} across */
  #walk(down, across) {
    const { rows, columns, centre } = this.#camera;
    const from = this.#held ?? this.#pointed;
    const { x, y } = centre;
    const at = from ?? { query: Math.min(rows - 1, Math.floor(y)), key: Math.min(columns - 1, Math.floor(x)) };
    const cell = this.#cell(at);
    const side = this.#side;
    const step = from ? 1 : 0;
    const query = Math.min(Math.max(0, cell.top + step * down * side), rows - 1);
    const key = Math.min(Math.max(0, cell.left + step * across * side), columns - 1);
    this.#pointed = { query, key };
    this.#moved(() => this.#camera.reveal(query, key, side));
    if (this.#held) this.#context.state.go(asHeld({ query, key }));
  }

  /** The cell that a pair is drawn in. @param {Pair} pair @returns {import("./map/readout.js").Cell} */
  #cell({ query, key }) {
    const tiles = this.#tiles;
    const wide = CELLS * tiles.side(this.#zoomed);
    const { tile, why } = tiles.best(this.#zoomed, Math.floor(query / wide), Math.floor(key / wide));
    const side = tile?.side ?? this.#side;
    const [top, left] = [Math.floor(query / side) * side, Math.floor(key / side) * side];
    const seen = this.#outline?.sees(this.#head, query, key) ?? true;
    return {
      top, left,
      bottom: Math.min(top + side, tiles.rows),
      right: Math.min(left + side, tiles.columns),
      weight: tile?.at(query, key) ?? null,
      why,
      hidden: side === 1 && !seen,
    };
  }

  /** Draws once before the next picture, however often it is asked. */
  #redraw() {
    this.#drawing ||= requestAnimationFrame(() => {
      this.#drawing = 0;
      this.#draw();
      this.#tell();
    });
  }

  #draw() {
    const canvas = this.#canvas;
    const pen = canvas.getContext("2d", { alpha: false });
    const layer = this.#layer;
    const sharp = window.devicePixelRatio;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    if (!layer || !pen || !wide) return;
    const [width, height] = [Math.round(wide * sharp), Math.round(high * sharp)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    const colour = colours(this.#context.root);
    pen.fillStyle = colour.paper;
    pen.fillRect(0, 0, wide, high);
    pen.translate(this.#ruler, this.#ruler);
    const drawn = paintMap(pen, sharp, this.#camera, this.#tiles, this.#tinted.palette, this.#outline, this.#head, colour);
    this.#side = drawn.side;
    this.#zoomed = drawn.zoom;
    const spot = this.#held ?? this.#pointed;
    if (spot) paintCross(pen, this.#camera, this.#cell(spot), this.#held !== null, colour.ink);
    paintRulers(pen, this.#camera, layer, { ...colour, size: this.#ruler }, spot);

    this.#tiles.fetch();
    this.#note.textContent = mapRemark(drawn.why, this.#context.payload.contents);
    mapLegend(this.#legend, this.#tinted.palette, this.#camera, drawn.side);
    Object.assign(canvas.dataset, {
      drawn: `${this.#tiles.index}.${this.#head}`, side: drawn.side, why: [...drawn.why].sort().join(" "),
    });
  }

  /** Says in the margin what is pointed at, if that has changed. */
  #tell() {
    const layer = this.#layer;
    if (!layer) return;
    const { margin } = this.#context;
    const at = this.#held ?? this.#pointed;
    const cell = at && this.#cell(at);
    const told = JSON.stringify([cell, this.#held !== null, this.#head, layer.entry.name]);
    if (told === this.#told) return;
    this.#told = told;
    const letGo = () => {
      this.#pointed = null;
      this.#hold(null);
    };
    fillSheet(margin, cell
      ? readout(layer, this.#head, cell, this.#held !== null, (query, key) => {
        this.#moved(() => this.#camera.reveal(query, key, this.#side));
        this.#context.state.go(asHeld({ query, key }));
      }) : mapInvitation(layer), cell !== null, this.#held ? letGo : null);
    if (!this.#held || !cell) return;
    const { left, top } = this.#canvas.getBoundingClientRect();
    const x = left + this.#ruler + this.#camera.x(cell.left);
    keepAbove(margin, { left: x, right: x, bottom: top + this.#ruler + this.#camera.y(cell.bottom) }, this.#canvas);
  }
}

/** @type {import("./index.js").View} */
export const mapView = {
  title: "Map",
  ofOneHead: true,
  mount: (context) => new MapView(context),
  settle: settleMap,
};
