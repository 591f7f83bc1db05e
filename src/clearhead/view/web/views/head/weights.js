/** The weights of one head, as far as the page lists them: of its tokens, of its words, or between sentences. */

/** @typedef {import("../../payload.js").Entry} Entry */
/** @typedef {import("./units.js").Units} Units */

export class Weights {
  /** @type {Map<string, Entry[]>} what was asked for last */
  #known = new Map();

  /**
   * @param {Uint32Array} starts where each query's entries start in the two below, and where the last one's end
   * @param {Uint32Array} positions the keys, ascending for each query
   * @param {Float32Array} weights
   * @param {Float32Array} rests the part of each query's weight that is on no key listed here
   * @param {Float32Array | null} gone the part of each query's weight that was left out, before the others were scaled
   */
  constructor(starts, positions, weights, rests, gone = null) {
    this.gone = gone;
    this.starts = starts;
    this.positions = positions;
    this.weights = weights;
    this.rests = rests;
  }

  /** @param {import("../../payload.js").Layer} layer @param {number} head */
  static of(layer, head) {
    const count = layer.queries.length;
    const first = head * count;
    return new Weights(layer.starts.subarray(first, first + count + 1), layer.positions, layer.weights,
      layer.rests.subarray(first, first + count));
  }

  /**
   * In words: the sum over a word's tokens where it is looked at, the mean over them where it looks (Clark et al.
   * 2019).
   * @param {Units} queries
   * @param {Units} keys
   */
  inWords(queries, keys) {
    const word = keys.ofTokens();
    const sums = new Float64Array(keys.count);
    const starts = new Uint32Array(queries.count + 1);
    const rests = new Float32Array(queries.count);
    const listed = this.starts[queries.starts[queries.count]] - this.starts[0];
    const positions = new Uint32Array(listed);
    const weights = new Float32Array(listed);
    let end = 0;
    for (let unit = 0; unit < queries.count; unit++) {
      const [from, to] = [queries.starts[unit], queries.starts[unit + 1]];
      const met = new Set();
      for (let at = this.starts[from]; at < this.starts[to]; at++) {
        const key = word[this.positions[at]];
        met.add(key);
        sums[key] += this.weights[at];
      }
      for (const key of [...met].sort((a, b) => a - b)) {
        positions[end] = key;
        weights[end++] = sums[key] / (to - from);
        sums[key] = 0;
      }
      for (let token = from; token < to; token++) rests[unit] += this.rests[token] / (to - from);
      starts[unit + 1] = end;
    }
    return new Weights(starts, positions.subarray(0, end), weights.subarray(0, end), rests);
  }

  /**
   * What is left without some keys: the weights on the others, divided by their sum. A query that has no weight on
   * others has none left.
   * @param {Set<number>} keys
   */
  without(keys) {
    const { length } = this.rests;
    const starts = new Uint32Array(length + 1);
    const [rests, gone] = [new Float32Array(length), new Float32Array(length)];
    const listed = this.starts[length] - this.starts[0];
    const positions = new Uint32Array(listed);
    const weights = new Float32Array(listed);
    let end = 0;
    for (let query = 0; query < length; query++) {
      const first = end;
      let others = this.rests[query];
      for (let at = this.starts[query]; at < this.starts[query + 1]; at++) {
        if (keys.has(this.positions[at])) gone[query] += this.weights[at];
        else {
          positions[end] = this.positions[at];
          weights[end++] = this.weights[at];
          others += this.weights[at];
        }
      }
      for (let at = first; at < end; at++) weights[at] /= others;
      rests[query] = others ? this.rests[query] / others : 0;
      starts[query + 1] = end;
    }
    return new Weights(starts, positions.subarray(0, end), weights.subarray(0, end), rests, gone);
  }

  /**
   * What is left when only some pairs count; the weight of the others is added to the rest.
   * @param {(query: number, key: number) => boolean} counts
   */
  among(counts) {
    const { length } = this.rests;
    const starts = new Uint32Array(length + 1);
    const rests = this.rests.slice();
    const listed = this.starts[length] - this.starts[0];
    const positions = new Uint32Array(listed);
    const weights = new Float32Array(listed);
    let end = 0;
    for (let query = 0; query < length; query++) {
      for (let at = this.starts[query]; at < this.starts[query + 1]; at++) {
        if (counts(query, this.positions[at])) {
          positions[end] = this.positions[at];
          weights[end++] = this.weights[at];
        } else rests[query] += this.weights[at];
      }
      starts[query + 1] = end;
    }
    return new Weights(starts, positions.subarray(0, end), weights.subarray(0, end), rests, this.gone);
  }

  /** @param {number} query @returns {Entry[]} its keys, heaviest first */
  row(query) {
    /** @type {Entry[]} */
    const entries = [];
    for (let at = this.starts[query]; at < this.starts[query + 1]; at++) {
      entries.push({ position: this.positions[at], weight: this.weights[at] });
    }
    return entries.sort((a, b) => b.weight - a.weight);
  }

  /** @param {number} key @returns {Entry[]} the queries that list it, heaviest first */
  column(key) {
    /** @type {Entry[]} */
    const entries = [];
    for (let query = 0; query < this.rests.length; query++) {
      for (let at = this.starts[query]; at < this.starts[query + 1]; at++) {
        if (this.positions[at] === key) entries.push({ position: query, weight: this.weights[at] });
      }
    }
    return entries.sort((a, b) => b.weight - a.weight);
  }

  /** @param {import("./lines.js").Pointed} pointed @returns {Entry[]} what is listed of it, heaviest first */
  entries({ side, position }) {
    const name = side + position;
    const entries = this.#known.get(name) ?? (side === "query" ? this.row(position) : this.column(position));
    if (this.#known.size > 8) this.#known.clear();
    this.#known.set(name, entries);
    return entries;
  }

  /** @param {number} least @returns {number} how many weights are at least so large */
  count(least) {
    const end = this.starts[this.rests.length];
    if (least <= 0) return end - this.starts[0];
    let found = 0;
    for (let at = this.starts[0]; at < end; at++) found += Number(this.weights[at] >= least);
    return found;
  }
}
