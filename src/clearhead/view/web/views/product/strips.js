/** The strips: q, k and their product as bars, dimension by dimension, and the scores of the whole row. */

import { svg } from "../../dom.js";
import { percent } from "../../numbers.js";
import { spelled } from "../../tokens.js";
import { equation, signed } from "./equation.js";

/** @typedef {import("../product.js").Shown} Shown */
/** @typedef {ReturnType<typeof import("../../colours.js").colours>} Palette */
/** @typedef {{name: string, says: string, bars: {value: number, told: string, beside?: number}[], tall: number}} Strip */

const FONT = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const GAP = 18;
const PLOT = 120;
const LONGEST = 16;

/**
 * @param {Shown} shown
 * @param {number} width
 * @param {Palette} palette
 * @param {string | null} title written above, with the equation, where the drawing is to stand alone
 * @returns {SVGElement}
 */
export function drawn(shown, width, palette, title) {
  const margin = title === null ? 0 : 20;
  const across = width - 2 * margin;
  const label = across < 460 ? 88 : 118;
  const root = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width, "font-family": FONT, role: "img",
    "aria-label": `${query(shown)} and ${key(shown)}: their vectors, the product of each dimension, ` +
      "and the scores of the row" });
  const body = svg("g", { transform: `translate(${margin} ${margin})` });
  root.append(body);
  let y = 0;
  if (title !== null) y = headline(body, shown, title, across, palette);
  for (const strip of strips(shown)) {
    body.append(bars(strip, y, across, label, palette));
    y += strip.tall + GAP;
  }
  body.append(scores(shown, y, across, label, palette));
  const height = y + PLOT + 38 + 2 * margin;
  root.setAttribute("height", String(height));
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return root;
}

/** @param {Shown} shown */
const query = ({ layer, query: at }) => short(layer.queries[at]);

/** @param {Shown} shown */
const key = ({ layer, key: at }) => short(layer.keys[at]);

/** @param {string} text */
function short(text) {
  const characters = [...spelled(text)];
  return characters.length > LONGEST ? `${characters.slice(0, LONGEST - 1).join("")}…` : characters.join("");
}

/**
 * @param {number} x @param {number} y @param {string} said @param {string} colour
 * @param {Record<string, string | number>} [more]
 */
function words(x, y, said, colour, more = {}) {
  return svg("text", { x, y, fill: colour, "font-size": 11, ...more }, said);
}

/** @param {SVGElement} body @param {Shown} shown @param {string} title @param {number} width @param {Palette} palette */
function headline(body, shown, title, width, palette) {
  const { ink, muted } = palette;
  const pair = `${query(shown)} → ${key(shown)}`;
  body.append(words(0, 16, title, ink, { "font-size": 18 }),
    words(width, 16, pair, ink, { "font-size": 14, "text-anchor": "end" }));
  let [x, y] = [0, 52];
  for (const { sign, value, says } of equation(shown.steps, shown.vectors)) {
    const wide = (sign ? 16 : 0) + Math.max(9 * value.length, 4.7 * says.length);
    if (x + wide > width) [x, y] = [0, y + 42];
    if (sign) body.append(words(x, y, sign, muted, { "font-size": 14 }));
    const after = x + (sign ? 16 : 0);
    body.append(words(after, y, value, ink, { "font-size": 15 }), words(after, y + 15, says, muted, { "font-size": 9 }));
    x += wide + 12;
  }
  return y + 38;
}

/** @param {Shown} shown @returns {Strip[]} */
function strips(shown) {
  const { vectors, terms, bySize } = shown;
  if (!vectors.width) return [];
  const ordered = bySize ? [...terms].sort((a, b) => Math.abs(b.here) - Math.abs(a.here)) : terms;
  const dimensions = ordered.flatMap((term) => term.dimensions);
  const [q, k] = [vectors.queryVector(shown.query), vectors.keyVector(shown.key)];
  /** @param {(dimension: number) => number} value */
  const each = (value) => dimensions.map((dimension) =>
    ({ value: value(dimension), told: `dimension ${dimension}: ${signed(value(dimension), 3)}` }));
  /** @type {Strip[]} */
  const made = [
    { name: "q", says: query(shown), bars: each((dimension) => q[dimension]), tall: 44 },
    { name: "k", says: key(shown), bars: each((dimension) => k[dimension]), tall: 44 },
    { name: "q·k", says: "by dimension", bars: each((dimension) => q[dimension] * k[dimension]), tall: 64 },
  ];
  const pairs = ordered.flatMap(({ dimensions: two, here, together }) => together === null ? [] : [{
    value: here, beside: together,
    told: `pair ${two.join(", ")}: ${signed(here, 3)}; ${signed(together, 3)} if both stood at one place`,
  }]);
  if (pairs.length) made.push({ name: "pairs", says: "• side by side", bars: pairs, tall: 76 });
  return made;
}

/** @param {Strip} strip @param {number} y @param {number} width @param {number} label @param {Palette} palette */
function bars({ name, says, bars: values, tall }, y, width, label, palette) {
  const { ink, muted, rule, hue } = palette;
  const group = svg("g", { transform: `translate(0 ${y})`, "data-strip": name });
  const all = values.flatMap(({ value, beside }) => [value, beside ?? 0]);
  const most = all.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-9);
  const [high, low] = [Math.max(0, ...all), Math.min(0, ...all)];
  const scale = tall / (high - low || 1);
  const zero = high * scale;
  const step = (width - label) / values.length;
  group.append(
    words(0, 13, name, ink, { "font-size": 14 }), words(0, 28, says, muted),
    words(0, 42, `to ±${most.toFixed(most < 10 ? 1 : 0)}`, muted, { "font-size": 10 }),
    svg("line", { x1: label, x2: width, y1: zero, y2: zero, stroke: rule }));
  values.forEach(({ value, told, beside }, n) => {
    const x = label + n * step;
    const bar = svg("rect", { x: x + step * 0.12, width: step * 0.76, y: zero - Math.max(0, value) * scale,
      height: Math.max(0.4, Math.abs(value) * scale), fill: value < 0 ? muted : hue, "data-value": value });
    bar.append(svg("title", {}, told));
    group.append(bar);
    if (beside !== undefined) {
      group.append(svg("circle", { cx: x + step / 2, cy: zero - beside * scale, r: Math.min(3, Math.max(1.4, step * 0.25)),
        fill: ink, "data-beside": beside }));
    }
  });
  return group;
}

/** The row's scores, key by key, the chosen one marked. @param {Shown} shown @param {number} y @param {number} width
 * @param {number} label @param {Palette} palette */
function scores(shown, y, width, label, palette) {
  const { row, key: chosen, steps } = shown;
  const { ink, muted, rule, hue } = palette;
  const group = svg("g", { transform: `translate(0 ${y})`, "data-strip": "scores" });
  const values = row.map(({ score }) => score).filter(Number.isFinite);
  const high = Math.max(steps.logSum, ...extremes(values).slice(1));
  const low = Math.min(extremes(values)[0], high - 1);
  const [first, last] = [row[0].position, row[row.length - 1].position];
  /** @param {number} position */
  const across = (position) => label + 6 + (width - label - 12) * ((position - first) / Math.max(1, last - first));
  /** @param {number} score */
  const down = (score) => 8 + (PLOT - 8) * (high - Math.max(low, score)) / (high - low);
  const path = row.map(({ position, score }, n) =>
    `${n && row[n - 1].position === position - 1 ? "L" : "M"}${across(position).toFixed(1)} ${down(score).toFixed(1)}`);
  const [x, at] = [across(chosen), down(steps.score)];
  const right = x > (label + width) / 2;
  group.append(
    words(0, 13, "scores", ink, { "font-size": 14 }), words(0, 28, "of this row", muted),
    words(label - 4, down(high) + 4, signed(high, 1), muted, { "font-size": 10, "text-anchor": "end" }),
    words(label - 4, PLOT + 2, signed(low, 1), muted, { "font-size": 10, "text-anchor": "end" }),
    svg("line", { x1: label, x2: width, y1: down(steps.logSum), y2: down(steps.logSum), stroke: muted,
      "stroke-dasharray": "3 4" }),
    svg("line", { x1: label, x2: width, y1: PLOT + 6, y2: PLOT + 6, stroke: rule }),
    svg("path", { d: path.join(""), fill: "none", stroke: hue, "stroke-width": 1.3, "stroke-linejoin": "round" }));
  if (row.length <= 200) {
    group.append(...row.map(({ position, score, weight }) => {
      const dot = svg("circle", { cx: across(position), cy: down(score), r: 2, fill: hue, "data-position": position,
        "data-score": score });
      dot.append(svg("title", {}, `${position}: score ${signed(score, 2)}, ${percent(Math.min(1, weight))}`));
      return dot;
    }));
  }
  group.append(
    svg("line", { x1: x, x2: x, y1: at, y2: PLOT + 6, stroke: ink, "stroke-width": 1 }),
    svg("circle", { cx: x, cy: at, r: 4, fill: ink, "data-chosen": chosen }),
    words(right ? x - 8 : x + 8, Math.min(Math.max(at + 4, 24), PLOT - 2), `${key(shown)}  ${signed(steps.score, 2)}`, ink,
      { "text-anchor": right ? "end" : "start", stroke: palette.paper, "stroke-width": 3, "paint-order": "stroke" }),
    words(label, PLOT + 22, `key ${first}`, muted, { "font-size": 10 }),
    words(width, PLOT + 22, `key ${last}`, muted, { "font-size": 10, "text-anchor": "end" }),
    words((label + width) / 2, PLOT + 22, "dashed: a key here would have all the weight", muted,
      { "font-size": 10, "text-anchor": "middle" }));
  return group;
}

/** @param {number[]} values @returns {[number, number]} least and largest, of however many */
function extremes(values) {
  return values.reduce((/** @type {[number, number]} */ [least, most], value) =>
    [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
}
