/** Units: what a column lists, tokens or the words that they make up, and the sentence that each stands in. */

/** @typedef {{starts: number[], texts: string[]}} Words the tokens at which words begin, and how each is spelled */

export class Units {
  /**
   * @param {string[]} texts of each unit
   * @param {Uint32Array} starts the token where each begins, and where the last one ends
   * @param {ArrayLike<number> | null} sentences of each token; null where there is one only
   * @param {Uint32Array} numbers the token of the whole text where each begins: a word has the number that the map and
   *   the product of query and key have for its first token
   */
  constructor(texts, starts, sentences, numbers) {
    this.texts = texts;
    this.starts = starts;
    this.numbers = numbers;
    /** Of each unit. */
    this.sentences = sentences && texts.map((_, unit) => sentences[starts[unit]]);
  }

  get count() {
    return this.texts.length;
  }

  /** Whether each token stands for itself. */
  get areTokens() {
    return this.starts[this.count] === this.count;
  }

  /** @param {number} token @returns {number} the unit that it is in */
  at(token) {
    let low = 0;
    for (let high = this.count; high - low > 1;) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] <= token) low = middle;
      else high = middle;
    }
    return low;
  }

  /** @returns {Uint32Array} the unit of each token */
  ofTokens() {
    const units = new Uint32Array(this.starts[this.count]);
    for (let unit = 0; unit < this.count; unit++) units.fill(unit, this.starts[unit], this.starts[unit + 1]);
    return units;
  }
}

/**
 * @typedef {object} Sides what the two columns of a layer list
 * @property {Units} queries
 * @property {Units} keys
 * @property {number} offset how far down the queries begin: in self-attention they are the last of the keys' units
 */

/**
 * @param {import("../../payload.js").Contents} contents
 * @param {import("../../payload.js").Layer} layer
 * @param {boolean} inWords
 * @returns {Sides}
 */
export function sidesOf({ words, segments }, layer, inWords) {
  const { entry, offset } = layer;
  const wordsOf = (/** @type {number} */ text) => (inWords && words?.[text]) || null;
  const keys = listed(layer.keys, wordsOf(entry.keys), segments?.[entry.keys] ?? null);
  if (entry.kind === "cross") {
    return { queries: listed(layer.queries, wordsOf(entry.queries), segments?.[entry.queries] ?? null), keys, offset };
  }
  if (offset === 0 && entry.added === 0) return { queries: keys, keys, offset };
  // A word that was begun before the first query is there with the rest of its tokens.
  const first = keys.at(offset);
  const last = keys.count - entry.added;
  const starts = keys.starts.slice(first, last + 1).map((start) => Math.max(0, start - offset));
  const sentences = segments?.[entry.keys]?.slice(offset) ?? null;
  const queries = new Units(keys.texts.slice(first, last), starts, sentences, keys.numbers.slice(first, last + 1));
  return { queries, keys, offset: first };
}

/** @param {string[]} tokens @param {Words | null} words @param {number[] | null} sentences */
function listed(tokens, words, sentences) {
  const texts = words ? words.texts : tokens;
  const starts = words ? Uint32Array.from([...words.starts, tokens.length])
    : Uint32Array.from({ length: tokens.length + 1 }, (_, token) => token);
  return new Units(texts, starts, sentences, starts);
}
