/** The vectors of one head: its q and k, and each score and weight made of them, step by step. */

/** @typedef {{kinds: {frequencies: number[], neighbours: boolean}[], of: (number | null)[]}} Rotary */

/**
 * @typedef {object} Steps how the weight of one pair comes about
 * @property {number} sum Σ q·k
 * @property {number} scaled sum · scale
 * @property {number} capped what the softcap makes of that; the same where there is none
 * @property {number} bias
 * @property {number} score capped + bias
 * @property {number} logSum the logarithm of the sum of exp(score) over the row, a sink's included
 * @property {number} weight exp(score − logSum)
 */

/** @typedef {{dimensions: number[], here: number, together: number | null}} Term a part of Σ q·k: of one dimension,
 * or of a pair of them that turns with the position, and then what it were if both tokens stood at one place */

export class Vectors {
  /** @param {ArrayBuffer} buffer as vectors.py writes it */
  constructor(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    /** @type {string | null} why there are none */
    this.without = header.without;
    const { queries, keys, width, runs, bias } = header;
    this.queries = Number(queries ?? 0);
    this.keys = Number(keys ?? 0);
    this.width = Number(width ?? 0);
    this.runs = Number(runs ?? 0);
    /** @type {number} */ this.scale = header.scale;
    /** @type {number | null} */ this.softcap = header.softcap;
    /** @type {number | null} */ this.sink = header.sink;
    /** @type {"distance" | "pairs" | null} */ this.form = bias;
    let at = 4 + length;
    /** @template A @param {{new(buffer: ArrayBuffer, at: number, count: number): A}} Numbers @param {number} count */
    const next = (Numbers, count) => {
      const numbers = new Numbers(buffer, at, count);
      at += 4 * count;
      return numbers;
    };
    const added = { distance: this.queries + this.keys - 1, pairs: this.queries * this.keys };
    this.highest = next(Float32Array, this.queries);
    this.peaks = next(Float32Array, this.queries);
    this.starts = next(Int32Array, this.queries * this.runs);
    this.stops = next(Int32Array, this.queries * this.runs);
    this.added = next(Float32Array, this.form ? added[this.form] : 0);
    this.querySteps = next(Float32Array, this.queries);
    this.keySteps = next(Float32Array, this.keys);
    this.q = new Int16Array(buffer, at, this.queries * this.width);
    this.k = new Int16Array(buffer, at + 2 * this.q.length, this.keys * this.width);
  }

  /** @param {number} query */
  queryVector(query) {
    const steps = this.q.subarray(query * this.width, (query + 1) * this.width);
    return Float64Array.from(steps, (count) => count * this.querySteps[query]);
  }

  /** @param {number} key */
  keyVector(key) {
    const steps = this.k.subarray(key * this.width, (key + 1) * this.width);
    return Float64Array.from(steps, (count) => count * this.keySteps[key]);
  }

  /** @param {number} query @returns {number[]} the keys that it may see */
  visible(query) {
    /** @type {number[]} */
    const keys = [];
    for (let run = query * this.runs; run < (query + 1) * this.runs; run++) {
      for (let key = this.starts[run]; key < this.stops[run]; key++) keys.push(key);
    }
    return keys;
  }

  /** @param {number} query @param {number} key @returns {Steps} */
  steps(query, key) {
    const [q, k] = [query * this.width, key * this.width];
    let sum = 0;
    for (let n = 0; n < this.width; n++) sum += this.q[q + n] * this.k[k + n];
    sum *= this.querySteps[query] * this.keySteps[key];
    const scaled = sum * this.scale;
    const capped = this.softcap === null ? scaled : this.softcap * Math.tanh(scaled / this.softcap);
    const place = this.form === "pairs" ? query * this.keys + key : key - query + this.queries - 1;
    const bias = this.form === null ? 0 : this.added[place];
    const score = capped + bias;
    const [highest, peak] = [this.highest[query], this.peaks[query]];
    const weight = Math.exp(score - highest) * peak;
    return { sum, scaled, capped, bias, score, logSum: highest - Math.log(peak), weight };
  }

  /** By how much the score may be off, as vectors have 16 bits. @param {number} query @param {number} key */
  uncertainty(query, key) {
    const [a, b] = [this.querySteps[query] / 2, this.keySteps[key] / 2];
    const k = this.keyVector(key);
    const off = this.queryVector(query).reduce((sum, part, n) =>
      sum + Math.abs(part) * b + Math.abs(k[n]) * a + a * b, 0);
    return off * Math.abs(this.scale);
  }

  /**
   * The parts of Σ q·k: pairs of dimensions where these turn with the position, each other dimension by itself.
   * @param {number} query
   * @param {number} key
   * @param {number} apart j − i, by the positions of the two
   * @param {{frequencies: number[], neighbours: boolean} | null} turning
   * @returns {Term[]}
   */
  terms(query, key, apart, turning) {
    const [q, k] = [this.queryVector(query), this.keyVector(key)];
    const frequencies = turning?.frequencies ?? [];
    const pairs = frequencies.map((frequency, m) => {
      const dimensions = turning?.neighbours ? [2 * m, 2 * m + 1] : [m, m + frequencies.length];
      const [a, b] = dimensions;
      const here = q[a] * k[a] + q[b] * k[b];
      const across = q[a] * k[b] - q[b] * k[a];
      const angle = apart * frequency;
      return { dimensions, here, together: here * Math.cos(angle) + across * Math.sin(angle) };
    });
    const others = Array.from(q.subarray(2 * frequencies.length), (part, n) => {
      const dimension = n + 2 * frequencies.length;
      return { dimensions: [dimension], here: part * k[dimension], together: null };
    });
    return [...pairs, ...others];
  }
}
