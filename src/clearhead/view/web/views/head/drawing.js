/** The head view as a drawing that stands alone, for a paper: the tokens in sight and the lines between them. */

import { svg } from "../../dom.js";
import { colours } from "../../colours.js";
import { spelled } from "../../tokens.js";
import { stroke } from "./lines.js";

/**
 * @typedef {object} Drawn what is to be drawn
 * @property {string} title which is not drawn: a text's beginning may be as long as it likes
 * @property {string} where layer and heads
 * @property {string[]} caption what stands below
 * @property {import("./units.js").Sides} sides
 * @property {number[]} heads
 * @property {string[]} hues of the heads
 * @property {import("./lines.js").Line[]} lines
 * @property {number} first the first row
 * @property {number} rows how many
 * @property {import("./lines.js").Pointed[]} pointed
 */

/** In px, but for how many letters of a token are shown. */
const DRAWN = { row: 22, column: 230, between: 220, top: 54, line: 16, letters: 26 };

/** Of the legend of several heads: px a head, and how many stand in a line. */
const [LEGEND, DRAWN_HEADS] = [36, 18];

/** How many drawings there have been: two in one file, of two runs, have clips of different names. */
let drawings = 0;

/** @param {HTMLElement} root whose colours it has @param {Drawn} drawn @returns {SVGElement} */
export function drawing(root, { title, where, caption, sides, heads, hues, lines, first, rows, pointed }) {
  const { ink, muted } = colours(root);
  const count = Math.min(rows, Math.max(sides.keys.count, sides.offset + sides.queries.count) - first);
  const top = DRAWN.top + 16 * (Math.ceil(heads.length / DRAWN_HEADS) - 1);
  const [width, height] = [2 * DRAWN.column + DRAWN.between, top + count * DRAWN.row + 16 + caption.length * DRAWN.line];
  const made = svg("svg", {
    xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`,
    "font-family": "Helvetica, Arial, sans-serif", "font-size": 13,
  });
  const y = (/** @type {number} */ row) => Number((top + (row - first) * DRAWN.row).toFixed(1));
  const clip = `in-sight-${++drawings}`;
  made.append(svg("title", {}, title),
    svg("text", { x: 16, y: 24, fill: ink, "font-size": 14 }, where),
    svg("clipPath", { id: clip }, svg("rect", { x: DRAWN.column, y: top, width: DRAWN.between, height: count * DRAWN.row })));
  if (heads.length > 1) {
    made.append(...heads.map((head, n) =>
      svg("text", { x: 16 + LEGEND * (n % DRAWN_HEADS), y: 44 + 16 * Math.floor(n / DRAWN_HEADS), fill: hues[n], "font-size": 12, "font-weight": 600 }, `■ ${head}`)));
  }

  const between = svg("g", { "clip-path": `url(#${clip})`, fill: "none", "stroke-linecap": "round" });
  for (const { from, to, weight, head } of lines) {
    const { opacity, thickness } = stroke(weight, pointed.length > 0);
    const middle = DRAWN.column + DRAWN.between / 2;
    between.append(svg("path", {
      d: `M${DRAWN.column} ${y(from)}C${middle} ${y(from)} ${middle} ${y(to)} ${DRAWN.column + DRAWN.between} ${y(to)}`,
      stroke: hues[head], "stroke-opacity": opacity.toFixed(3), "stroke-width": thickness.toFixed(2),
    }));
  }
  made.append(between);

  /** @param {import("./units.js").Units} units @param {number} offset @param {"query" | "key"} side */
  const column = ({ texts, numbers }, offset, side) => {
    const [x, anchor, far] = side === "query" ? [DRAWN.column - 8, "end", 16] : [DRAWN.column + DRAWN.between + 8, "start", width - 16];
    for (let row = Math.max(first, offset); row < Math.min(first + count, offset + texts.length); row++) {
      const position = row - offset;
      const whole = [...spelled(texts[position])];
      const text = whole.length > DRAWN.letters ? `${whole.slice(0, DRAWN.letters - 1).join("")}…` : whole.join("");
      const chosen = pointed.some((one) => one.side === side && one.position === position);
      made.append(
        svg("text", { x, y: y(row + 0.68), fill: ink, "text-anchor": anchor, "font-weight": chosen ? 700 : 400 }, text),
        svg("text", { x: far, y: y(row + 0.68), fill: muted, "font-size": 10,
          "text-anchor": side === "query" ? "start" : "end" }, String(numbers[position])));
    }
  };
  column(sides.queries, sides.offset, "query");
  column(sides.keys, 0, "key");
  made.append(...caption.map((line, n) =>
    svg("text", { x: 16, y: height - 12 - (caption.length - 1 - n) * DRAWN.line, fill: muted, "font-size": 11 }, line)));
  return made;
}
