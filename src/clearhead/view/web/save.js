/** Saving what is to be seen: the view's drawing as SVG, PNG or PDF. */

import { colours } from "./colours.js";
import { element, svg } from "./dom.js";

const FINER = 2; // A PNG has so many pixels for one of the page.

export class SaveMenu {
  #page;
  #said = element("span", { class: "said", role: "status" });
  #menu;
  /** @type {(() => Promise<SVGElement>) | null} */
  #picture = null;
  #name = "";

  /** @param {HTMLElement} page whose colours count */
  constructor(page) {
    this.#page = page;
    this.#menu = element("details", {},
      element("summary", {}, "Save picture"),
      element("div", { class: "kinds" },
        this.#kind("SVG", "a drawing, to be edited", (drawing, name) => download(name, svgFile(drawing))),
        this.#kind("PNG", "pixels, twice as fine as the screen’s", async (drawing, name) =>
          download(name, await pngFile(drawing))),
        this.#kind("PDF", "by printing: choose “Save as PDF”", print)));
    this.root = element("div", { class: "save", hidden: true }, this.#menu, this.#said);
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#menu.open) return;
      this.#menu.open = false;
      this.#menu.querySelector("summary")?.focus();
      event.stopPropagation();
    });
    this.root.addEventListener("focusout", (event) => {
      const to = event.relatedTarget;
      if (to instanceof Node && !this.root.contains(to)) this.#menu.open = false;
    });
  }

  /**
   * @param {(() => Promise<SVGElement>) | null} picture what draws the view as it is, if anything does
   * @param {string} name of the files
   */
  offer(picture, name) {
    this.#picture = picture;
    this.#name = `clearhead-${name}`;
    this.root.hidden = !picture;
    this.#said.textContent = "";
  }

  /** @param {string} kind @param {string} says @param {(drawing: SVGElement, name: string) => void | Promise<void>} save */
  #kind(kind, says, save) {
    const button = element("button", { type: "button", "data-kind": kind.toLowerCase() }, element("b", {}, kind), ` ${says}`);
    button.addEventListener("click", async () => {
      this.#menu.open = false;
      try {
        if (!this.#picture) return;
        const drawing = onPaper(await this.#picture(), colours(this.#page).paper);
        await save(drawing, `${this.#name}.${kind.toLowerCase()}`);
        this.#said.textContent = kind === "PDF" ? "" : "Saved.";
      } catch (error) {
        this.#said.textContent = `It could not be saved. ${error instanceof Error ? error.message : error}`;
      }
    });
    return button;
  }
}

/** @param {SVGElement} drawing @param {string} colour of the paper behind it */
function onPaper(drawing, colour) {
  const { width, height } = sizeOf(drawing);
  const [x, y] = (drawing.getAttribute("viewBox") ?? "0 0").split(/[ ,]+/);
  drawing.prepend(svg("rect", { x, y, width, height, fill: colour, class: "paper" }));
  return drawing;
}

/** @param {SVGElement} drawing @returns {{width: number, height: number}} in px */
function sizeOf(drawing) {
  return { width: Number(drawing.getAttribute("width")), height: Number(drawing.getAttribute("height")) };
}

/** @param {SVGElement} drawing @returns {string} without characters that XML has no place for; a text may hold any */
const written = (drawing) => new XMLSerializer().serializeToString(drawing)
  .replace(/[^\t\n\r\u{20}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]/gu, "\ufffd");

/** @param {SVGElement} drawing */
function svgFile(drawing) {
  return new Blob([`<?xml version="1.0" encoding="UTF-8"?>\n${written(drawing)}\n`], { type: "image/svg+xml" });
}

/** @param {SVGElement} drawing @returns {Promise<Blob>} */
async function pngFile(drawing) {
  const { width, height } = sizeOf(drawing);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(written(drawing))}`;
  await image.decode();
  const canvas = element("canvas");
  canvas.width = Math.round(width * FINER);
  canvas.height = Math.round(height * FINER);
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  const file = await new Promise((/** @type {(blob: Blob | null) => void} */ done) => canvas.toBlob(done, "image/png"));
  if (!file) throw new Error(`${canvas.width} × ${canvas.height} pixels are more than this browser draws.`);
  return file;
}

/** @param {string} name @param {Blob} file */
function download(name, file) {
  const address = URL.createObjectURL(file);
  const link = element("a", { href: address, download: name });
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/**
 * Prints the drawing alone, on a sheet of its size: lines stay lines and letters letters. The rest of the document,
 * which may be a notebook, is hidden meanwhile; so this is of the document and not of the page's own frame.
 * @param {SVGElement} drawing
 * @param {string} name that the browser proposes for the file
 */
function print(drawing, name) {
  const { width, height } = sizeOf(drawing);
  const sheet = new CSSStyleSheet();
  const [across, down] = [Math.ceil(width), Math.ceil(height)];
  sheet.replaceSync(`
    @page { size: ${across}px ${down}px; margin: 0; }
    @media screen { .clearhead-printed { display: none; } }
    @media print {
      html, body { margin: 0 !important; padding: 0 !important; background: none !important; }
      body > :not(.clearhead-printed) { display: none !important; }
      .clearhead-printed { height: ${down - 1}px; overflow: hidden; print-color-adjust: exact; }
      .clearhead-printed svg { display: block; }
    }`);
  const printed = element("div", { class: "clearhead-printed", "aria-hidden": "true" }, drawing);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  document.body.append(printed);
  const { title } = document;
  document.title = name.replace(/\.pdf$/, "");
  window.addEventListener("afterprint", () => {
    printed.remove();
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
    document.title = title;
  }, { once: true });
  window.print();
}
