/** The wall: a tile a head, drawn band by band as they come in sight, walked by arrow keys. */

import { colours, heatScale } from "../../colours.js";
import { element, hovers, svg, target } from "../../dom.js";
import { stepOnWall, tileAt } from "./layout.js";
import { drawThumb } from "./thumbs.js";

/** @typedef {import("./layout.js").Tile} Tile */
/** @typedef {import("./layout.js").Spot} Spot */
/** @typedef {import("./layout.js").WallLayout} WallLayout */

/**
 * @typedef {object} Shown what the wall shows
 * @property {WallLayout} layout
 * @property {boolean} maps whether tiles are small maps; else they are filled by the heat
 * @property {(spot: Spot) => boolean} kept whether a head is one of those asked for
 * @property {((spot: Spot) => number | null) | null} heat from 0 to 1; null where nothing was measured
 * @property {(spot: Spot) => string} name under a tile
 * @property {(spot: Spot) => string} says of a tile, all that there is to say
 */

/** @typedef {{canvas: HTMLCanvasElement, top: number, bottom: number, near: boolean}} Band */

const BAND_HEIGHT = 480;

export class Wall {
  #thumbs;
  #page;
  #events;
  #bands = element("div", { class: "bands", "aria-hidden": "true" });
  #at;
  #pointed = element("div", { class: "pointed-tile", "aria-hidden": "true", hidden: true });
  /** @type {Band[]} */
  #drawn = [];
  /** @type {Shown | null} */
  #shown = null;
  /** @type {Tile | null} */
  #cursor = null;
  /** @type {Set<Band>} */
  #due = new Set();
  #sight;
  #frame = 0;

  /**
   * @param {HTMLElement} page whose colours are used
   * @param {import("./thumbs.js").Thumbs} thumbs
   * @param {{point: (spot: Spot | null) => void, choose: (spot: Spot) => void, open: (spot: Spot) => void}} events
   */
  constructor(page, thumbs, events) {
    this.#page = page;
    this.#thumbs = thumbs;
    this.#events = events;
    const id = `tile-${Math.random().toString(36).slice(2)}`;
    this.#at = element("div", { role: "gridcell", id, class: "tile-at" });
    this.root = element("div", {
      class: "wall", role: "grid", tabindex: 0, "aria-label": "All heads", "aria-activedescendant": id,
    }, this.#bands, element("div", { role: "row" }, this.#at), this.#pointed);
    this.root.addEventListener("pointermove", (event) => this.#over(event));
    this.root.addEventListener("pointerleave", () => this.#point(null));
    this.root.addEventListener("click", (event) => {
      const tile = this.#under(event);
      if (tile) this.#events.open(tile);
    });
    this.root.addEventListener("focus", (event) => hovers(event) && this.#events.point(this.#cursor));
    this.root.addEventListener("blur", () => this.#events.point(null));
    this.#sight = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const band = this.#drawn.find(({ canvas }) => canvas === target);
        if (!band || band.near === isIntersecting) continue;
        band.near = isIntersecting;
        this.#due.add(band);
      }
      this.#soon();
    }, { rootMargin: "240px" });
  }

  /** @param {Shown} shown @param {Spot} at where one is */
  show(shown, at) {
    this.#shown = shown;
    const { tiles, height } = shown.layout;
    this.root.style.height = `${height}px`;
    this.#part(shown.layout);
    const kept = tiles.filter(shown.kept);
    this.#cursor = kept.find(({ layer, head }) => layer === at.layer && head === at.head) ?? kept[0] ?? null;
    this.#mark(this.#at, this.#cursor);
    // Where one is may not be among those asked for; the keyboard then begins at another, which is no choice yet.
    const here = this.#cursor?.layer === at.layer && this.#cursor.head === at.head;
    this.#at.toggleAttribute("data-elsewhere", !here);
    this.#mark(this.#pointed, null); // its tile may lie elsewhere now
    this.redraw();
  }

  /** Draws again what is in sight. */
  redraw() {
    for (const band of this.#drawn) this.#due.add(band);
    this.#soon();
  }

  /** Draws what is due, once, however often it is asked for before the next frame. */
  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      const [own, scale] = [colours(this.#page), heatScale(this.#page)];
      for (const band of this.#due) this.#draw(band, own, scale);
      this.#due.clear();
    });
  }

  /** Shows a head from outside. @param {Spot | null} spot */
  highlight(spot) {
    const tile = this.#shown?.layout.tiles.find(({ layer, head }) => layer === spot?.layer && head === spot.head);
    this.#mark(this.#pointed, tile ?? null);
  }

  close() {
    this.#sight.disconnect();
    cancelAnimationFrame(this.#frame);
  }

  /** @param {WallLayout} layout */
  #part({ breaks, height }) {
    /** @type {number[]} */
    const tops = [0];
    for (const at of breaks) if (at - tops[tops.length - 1] >= BAND_HEIGHT) tops.push(at);
    this.#sight.disconnect();
    this.#drawn = tops.map((top, n) => {
      const bottom = tops[n + 1] ?? height;
      const canvas = element("canvas", {});
      canvas.style.height = `${bottom - top}px`;
      return { canvas, top, bottom, near: n === 0 };
    });
    this.#due.clear();
    this.#bands.replaceChildren(...this.#drawn.map(({ canvas }) => canvas));
    for (const { canvas } of this.#drawn) this.#sight.observe(canvas);
  }

  /** @param {Band} band @param {ReturnType<typeof colours>} own @param {Uint8ClampedArray} scale */
  #draw({ canvas, top, bottom, near }, own, scale) {
    const shown = this.#shown;
    if (!shown || !near) {
      canvas.width = 0; // lets its memory go
      return;
    }
    const { tiles, labels, size } = shown.layout;
    const dots = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * dots);
    canvas.height = Math.round((bottom - top) * dots);
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const { fontFamily } = getComputedStyle(this.#page);
    context.scale(dots, dots);
    context.translate(0, -top);
    for (const { text, x, y, align, heading } of labels) {
      if (y < top || y >= bottom) continue;
      context.font = `${heading ? 15 : 11}px ${fontFamily}`;
      context.fillStyle = heading ? own.ink : own.muted;
      context.textAlign = align;
      context.fillText(text, x, y);
    }
    context.font = `11px ${fontFamily}`;
    context.textAlign = "left";
    let pictures = 0;
    for (const tile of tiles) {
      if (tile.y < top || tile.y >= bottom) continue;
      const { x, y } = tile;
      const { sheet, fill, line, name } = this.#look(tile, scale);
      if (sheet) drawThumb(context, sheet, tile.head, x, y, size);
      else if (fill) rectangle(context, fill, x, y, size, size);
      else {
        context.strokeStyle = own.rule;
        context.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
      }
      if (sheet || fill) pictures++;
      if (line) rectangle(context, line, x, y + size + 1, size, 3);
      context.fillStyle = own.muted;
      if (name) context.fillText(name, x, y + size + 15, size + 8);
    }
    canvas.dataset.drawn = String(pictures);
  }

  /**
   * What a tile shows: its map or a colour, a line of colour below a map, its name. One that was not asked for is empty.
   * @param {Tile} tile @param {Uint8ClampedArray} scale
   */
  #look(tile, scale) {
    const { kept, heat, maps, name, layout } = /** @type {Shown} */ (this.#shown);
    if (!kept(tile)) return {};
    const part = heat?.(tile) ?? null;
    const colour = part === null ? null : stepColour(scale, part);
    return {
      sheet: maps ? this.#thumbs.sheet(tile.layer) : null, fill: maps ? null : colour, line: maps ? colour : null,
      name: layout.named ? name(tile) : null,
    };
  }

  /** @param {PointerEvent} event */
  #over(event) {
    if (!hovers(event)) return;
    const tile = this.#under(event);
    this.root.classList.toggle("over", tile !== null);
    this.#point(tile);
  }

  /** @param {Tile | null} tile */
  #point(tile) {
    this.#mark(this.#pointed, tile);
    const focused = this.root.matches(":focus-visible") ? this.#cursor : null;
    this.#events.point(tile ?? focused);
  }

  /** @param {MouseEvent} event @returns {Tile | null} */
  #under(event) {
    if (!this.#shown) return null;
    const { left, top } = this.root.getBoundingClientRect();
    const { tiles, size } = this.#shown.layout;
    const tile = tileAt(tiles, size, event.clientX - left, event.clientY - top);
    return tile && this.#shown.kept(tile) ? tile : null;
  }

  /**
   * Arrows go from tile to tile as these lie on the wall, and Enter opens the one that is framed, wherever the focus is
   * that has no use for these keys.
   * @param {KeyboardEvent} event
   */
  walk(event) {
    if (!this.#shown || !this.#cursor || event.shiftKey) return;
    const within = event.target === this.root;
    const opens = event.key === "Enter" || (event.key === " " && within);
    if (opens && !target(event, "button, summary, input, a")) this.#events.open(this.#cursor);
    else if (/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) {
      const kept = this.#shown.layout.tiles.filter(this.#shown.kept);
      this.#cursor = stepOnWall(kept, this.#cursor, event.key) ?? this.#cursor;
      this.#mark(this.#at, this.#cursor);
      this.#at.removeAttribute("data-elsewhere");
      this.#at.scrollIntoView({ block: "nearest", inline: "nearest" });
      this.#events.choose(this.#cursor);
      this.#events.point(this.#cursor);
    } else return;
    event.preventDefault();
  }

  /** @param {HTMLElement} mark @param {Tile | null} tile */
  #mark(mark, tile) {
    mark.hidden = tile === null;
    if (!tile || !this.#shown) return;
    const { size } = this.#shown.layout;
    Object.assign(mark.style, { left: `${tile.x}px`, top: `${tile.y}px`, width: `${size}px`, height: `${size}px` });
    mark.dataset.layer = String(tile.layer);
    mark.dataset.head = String(tile.head);
    if (mark === this.#at) mark.setAttribute("aria-label", this.#shown.says(tile));
  }

  /** @param {number} width @returns {SVGElement} the whole wall, as far as its pictures are here */
  picture(width) {
    const shown = /** @type {Shown} */ (this.#shown);
    const { tiles, labels, size, height } = shown.layout;
    const [own, scale] = [colours(this.#page), heatScale(this.#page)];
    const drawn = svg("svg", {
      xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`,
      "font-family": "Helvetica, Arial, sans-serif", "font-size": 11,
    }, svg("rect", { width, height, fill: own.paper }));
    const anchor = { left: "start", center: "middle", right: "end" };
    for (const { text, x, y, align, heading } of labels) {
      drawn.append(svg("text", {
        x, y, "text-anchor": anchor[align], fill: heading ? own.ink : own.muted, "font-size": heading ? 15 : 11,
      }, text));
    }
    const canvas = element("canvas");
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    for (const tile of tiles.filter(shown.kept)) {
      const { x, y } = tile;
      const { sheet, fill, line, name } = this.#look(tile, scale);
      const title = svg("title", {}, shown.says(tile));
      if (sheet) {
        canvas.width = sheet.width;
        canvas.height = sheet.height;
        context.drawImage(sheet.canvas, -tile.head * sheet.width, 0);
        drawn.append(svg("image", {
          x, y, width: size, height: size, href: canvas.toDataURL(), preserveAspectRatio: "none",
          "image-rendering": "pixelated",
        }, title));
      } else drawn.append(svg("rect", { x, y, width: size, height: size, fill: fill ?? "none", stroke: own.rule }, title));
      if (line) drawn.append(svg("rect", { x, y: y + size + 1, width: size, height: 3, fill: line }));
      if (name) drawn.append(svg("text", { x, y: y + size + 15, fill: own.muted }, name));
    }
    return drawn;
  }
}

/**
 * @param {CanvasRenderingContext2D} context @param {string} fill
 * @param {number} x @param {number} y @param {number} width @param {number} height
 */
function rectangle(context, fill, x, y, width, height) {
  context.fillStyle = fill;
  context.fillRect(x, y, width, height);
}

/** @param {Uint8ClampedArray} scale @param {number} part @returns {string} */
function stepColour(scale, part) {
  const at = 3 * Math.round(255 * part);
  return `rgb(${scale[at]},${scale[at + 1]},${scale[at + 2]})`;
}
