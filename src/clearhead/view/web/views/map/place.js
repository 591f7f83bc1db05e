/** The map's place: which part of it the address names, in what tone, and the pair that is held. */

/** @typedef {{query: number, key: number}} Pair */

/**
 * What the address says of a pair that is held, for other views too: the query is held there, and the key looked at.
 * @param {Pair} pair
 */
export function asHeld({ query, key }) {
  return { spot: `${query}.${key}`, query, key: null, at: key };
}

/** @param {string | null} spot "12.3" @returns {Pair | null} */
export function spotOf(spot) {
  if (!spot) return null;
  const [query, key] = spot.split(".").map(Number);
  return { query, key };
}

/** @type {NonNullable<import("../index.js").View["settle"]>} */
export function settleMap(wish, place, payload) {
  const { layers, texts } = payload.contents;
  const [rows, columns] = [texts[layers[place.layer].queries].length, texts[layers[place.layer].keys].length];
  const within = (/** @type {unknown} */ value, /** @type {number} */ least, /** @type {number} */ most) => {
    const number = value === null || value === undefined || value === "" ? NaN : Number(value);
    return Number.isFinite(number) ? Math.min(Math.max(least, number), most) : null;
  };
  const zoom = within(wish.zoom, 1, Math.max(rows, columns));
  const pair = /^(\d{1,9})\.(\d{1,9})$/.exec(String(wish.spot));
  return {
    x: zoom === null ? null : within(wish.x, 0, columns) ?? columns / 2,
    y: zoom === null ? null : within(wish.y, 0, rows) ?? rows / 2,
    zoom,
    tone: wish.tone === "linear" ? "linear" : null,
    spot: pair && Number(pair[1]) < rows && Number(pair[2]) < columns ? pair[0] : null,
  };
}
