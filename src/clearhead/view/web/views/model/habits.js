/** Habits: what heads do in this text, in plain words, and the head that does it most; and of one head what it does. */

import { element, hovers } from "../../dom.js";
import { counted } from "../../numbers.js";
import { capital, clearly, habits, players, rolesIn, statistic, toldInOrder } from "../../statistics.js";
import { drawThumb } from "./thumbs.js";

/** @typedef {Record<string, (number | null)[][]>} Table */
/** @typedef {import("../../payload.js").Payload} Payload */
/** @typedef {import("./layout.js").Spot} Spot */

const HABITS_TOLD = 3;

/**
 * @param {Payload} payload
 * @param {{open: (spot: Spot, role: string) => void, all: (best: Spot, role: string) => void, point: (spot: Spot | null) => void}} events
 * @returns {HTMLElement} a card a role
 */
export function habitCards({ contents: { statistics, layers } }, events) {
  const cards = element("ul", { class: "habits" });
  /** @type {string[]} */
  const never = [];
  for (const role of toldInOrder(rolesIn(statistics))) {
    const playing = players(statistics, role);
    const { title, says, does, write } = statistic(role);
    if (!playing.length) {
      never.push(does ?? title);
      continue;
    }
    const best = playing[0];
    const clear = playing.filter(clearly).length;
    const { layer, head, value, chance } = best;
    const name = `Layer ${layers[layer].position}, head ${head}`;
    const card = element("button", { type: "button", class: "habit", title: `${says}; opens this head` },
      element("canvas", { width: 56, height: 56, "aria-hidden": "true", "data-layer": layer, "data-head": head }),
      element("span", { class: "does" }, capital(does ?? title)),
      element("span", { class: "who" }, element("b", {}, name), ` ${write(value)}`),
      element("span", { class: "chance" }, `a uniform head: ${write(chance)}`));
    card.addEventListener("click", () => events.open(best, role));
    for (const [event, spot] of /** @type {[string, Spot | null][]} */ ([
      ["pointerenter", best], ["focus", best], ["pointerleave", null], ["blur", null]])) {
      card.addEventListener(event, (happened) => (spot === null || hovers(happened)) && events.point(spot));
    }
    const all = element("button", { type: "button", class: "all-such" }, `${counted(clear, "head")} clearly`);
    all.addEventListener("click", () => events.all(best, role));
    cards.append(element("li", { "data-role": role, class: clear ? "" : "faintly" }, card,
      clear ? all : element("span", { class: "all-such" }, "no head clearly")));
  }
  const wrap = element("section", { class: "habit-cards", "aria-label": "What heads do here" }, cards);
  if (never.length) {
    wrap.append(element("p", { class: "hint" }, `This text gives no head a chance to show that it ${never.join(", or ")}.`));
  }
  return wrap;
}

/** @param {HTMLElement} within @param {import("./thumbs.js").Thumbs} thumbs paints the small maps that stand there */
export function paintThumbs(within, thumbs) {
  for (const canvas of /** @type {NodeListOf<HTMLCanvasElement>} */ (within.querySelectorAll("canvas[data-head]"))) {
    const sheet = thumbs.sheet(Number(canvas.dataset.layer));
    const context = canvas.getContext("2d");
    if (sheet && context) drawThumb(context, sheet, Number(canvas.dataset.head), 0, 0, canvas.width);
    canvas.hidden = !thumbs.has(Number(canvas.dataset.layer));
  }
}

/**
 * What there is to say of a head beside the wall.
 * @param {Payload} payload
 * @param {Spot} spot
 * @returns {HTMLElement[]}
 */
export function headTold({ contents: { statistics, layers } }, { layer, head }) {
  const { position, name } = layers[layer];
  const roles = element("dl", { class: "told-roles" }, ...habits(statistics, layer, head).slice(0, HABITS_TOLD).map((one) => {
    const { title, does, says, write } = statistic(one.role);
    const track = element("span", { class: "track", "data-chance": true });
    track.style.setProperty("--value", String(one.value));
    track.style.setProperty("--chance", String(one.chance));
    return element("div", { "data-role": one.role, title: says },
      element("dt", {}, capital(does ?? title)),
      element("dd", {}, track, element("span", { class: "value" }, write(one.value)),
        element("span", { class: "chance" }, `uniform ${write(one.chance)}`)));
  }));
  return [
    element("h2", {}, `Layer ${position}, head ${head}`),
    element("p", { class: "hint" }, element("code", {}, name)),
    element("canvas", { width: 192, height: 192, class: "near", "aria-hidden": "true", "data-layer": layer, "data-head": head }),
    roles,
    element("p", { class: "hint" }, "Click or Enter opens it."),
  ];
}
