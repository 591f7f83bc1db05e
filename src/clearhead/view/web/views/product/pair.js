/** The pair that is looked at: the query and the key that were asked for, or a telling pair of the head. */

/** @typedef {import("../../payload.js").Layer} Layer */
/** @typedef {import("./vectors.js").Vectors} Vectors */

/**
 * The pair that is asked for, or a telling one.
 * @param {import("../../state.js").Placed} place
 * @param {Layer} layer
 * @param {Vectors} vectors
 * @returns {{query: number, key: number} | null} null if nobody sees anybody
 */
export function pairOf(place, layer, vectors) {
  const { head } = place;
  if (place.query === null && place.key !== null) {
    const looking = layer.column(head, place.key)[0];
    if (looking) return { query: looking.position, key: place.key };
  }
  const query = place.query ?? telling(layer, head);
  const keys = vectors.visible(query);
  if (keys.includes(place.at)) return { query, key: place.at };
  const heaviest = layer.row(head, query);
  const key = (heaviest.find(({ position }) => isTelling(layer, query, position)) ?? heaviest[0])?.position ?? keys[0];
  if (key !== undefined) return { query, key };
  if (place.query === null) return null;
  return pairOf({ ...place, query: null }, layer, vectors);
}

/** A key that is neither the sink nor the query itself. @param {Layer} layer @param {number} query @param {number} key */
function isTelling(layer, query, key) {
  return key > 0 && !(layer.entry.kind === "self" && key === query + layer.offset);
}

/** @param {Layer} layer @param {number} head @returns {number} the query that looks hardest at a telling key */
function telling(layer, head) {
  let [best, most] = [layer.queries.length - 1, 0];
  layer.queries.forEach((_, query) => {
    const row = head * layer.queries.length + query;
    for (let at = layer.starts[row]; at < layer.starts[row + 1]; at++) {
      if (layer.weights[at] > most && isTelling(layer, query, layer.positions[at])) {
        [best, most] = [query, layer.weights[at]];
      }
    }
  });
  return best;
}
