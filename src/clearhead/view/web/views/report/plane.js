/** The plane: heads as points, near one another if they do the same, and the clusters of those that do. */

import { colours, heatScale } from "../../colours.js";
import { element, svg } from "../../dom.js";
import { plain } from "../../numbers.js";

/** @typedef {import("../model/layout.js").Spot} Spot */

/**
 * @typedef {object} Likeness as likeness.py gives it
 * @property {string} [without] why there is none
 * @property {[number, number][]} heads as [layer, head]
 * @property {[number, number][]} points
 * @property {number[]} nearest how far the head is that is most like it
 * @property {[number, number][][]} clusters
 * @property {number[]} spans of each cluster, how far apart the two are that differ most
 * @property {[number, number][]} closest the two heads that are most alike, as [layer, head]
 * @property {number} kept the share of the squared distances that the plane keeps
 * @property {number} threshold
 * @property {string} verdict
 */

const [PLANE_WIDE, PLANE_TALL, PLANE_EDGE] = [560, 400, 26];

/**
 * @param {Likeness} likeness
 * @param {(spot: Spot) => string} name
 * @param {HTMLElement} page whose colours are used
 * @returns {SVGElement}
 */
export function headPlane({ heads, points, nearest, clusters }, name, page) {
  const [own, scale] = [colours(page), heatScale(page)];
  const [x, y] = [0, 1].map((side) => {
    const along = points.map((point) => point[side]);
    const [low, high] = [Math.min(...along), Math.max(...along)];
    const room = (side ? PLANE_TALL : PLANE_WIDE) - 2 * PLANE_EDGE;
    return along.map((value) => PLANE_EDGE + (high > low ? (value - low) / (high - low) : 0.5) * room);
  });
  const last = Math.max(1, ...heads.map(([layer]) => layer));
  const at = new Map(heads.map(([layer, head], n) => [`${layer}-${head}`, n]));
  const drawn = svg("svg", {
    xmlns: "http://www.w3.org/2000/svg", width: PLANE_WIDE, height: PLANE_TALL, viewBox: `0 0 ${PLANE_WIDE} ${PLANE_TALL}`,
    "font-family": "Helvetica, Arial, sans-serif", "font-size": 11,
  }, svg("rect", { width: PLANE_WIDE, height: PLANE_TALL, fill: own.paper }));
  for (const cluster of clusters) {
    const members = cluster.map(([layer, head]) => at.get(`${layer}-${head}`) ?? 0);
    const centre = [x, y].map((along) => members.reduce((sum, n) => sum + along[n], 0) / members.length);
    for (const n of members) {
      drawn.append(svg("line", { x1: centre[0], y1: centre[1], x2: x[n], y2: y[n], stroke: own.hue, "stroke-width": 1.5 }));
    }
  }
  heads.forEach(([layer, head], n) => {
    const colour = 3 * Math.round(70 + (185 * layer) / last);
    drawn.append(svg("circle", {
      cx: x[n].toFixed(1), cy: y[n].toFixed(1), r: 4, "data-layer": layer, "data-head": head,
      fill: `rgb(${scale[colour]},${scale[colour + 1]},${scale[colour + 2]})`, stroke: own.paper, "stroke-width": 0.75,
    }, svg("title", {}, `${name({ layer, head })}; the head most like it is ${plain(nearest[n])} away`)));
  });
  for (const [layer, head] of clusters.slice(0, 8).map((cluster) => cluster[0])) {
    const n = at.get(`${layer}-${head}`) ?? 0;
    drawn.append(svg("text", { x: x[n] + 7, y: y[n] - 6, fill: own.ink }, name({ layer, head })));
  }
  return drawn;
}

/**
 * @param {Likeness} likeness
 * @param {(spot: Spot) => string} name
 * @param {(spot: Spot) => void} open
 * @returns {HTMLElement}
 */
export function clusterList({ nearest, clusters, spans, closest, threshold }, name, open) {
  const buttons = (/** @type {[number, number][]} */ some) => some.map(([layer, head]) => {
    const button = element("button", { type: "button" }, name({ layer, head }));
    button.addEventListener("click", () => open({ layer, head }));
    return button;
  });
  if (!clusters.length) {
    return element("p", { class: "hint" },
      `No two heads are within a distance of ${threshold}: each does something of its own here. The nearest two are `,
      ...buttons(closest).flatMap((one, n) => (n ? [" and ", one] : [one])), `, ${plain(Math.min(...nearest))} apart.`);
  }
  return element("ul", { class: "clusters" }, ...clusters.map((cluster, n) =>
    element("li", {}, ...buttons(cluster), element("span", { class: "apart" },
      cluster.length > 2 ? `no two more than ${plain(spans[n])} apart` : `${plain(spans[n])} apart`))));
}
