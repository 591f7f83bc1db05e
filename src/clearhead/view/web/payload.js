/** The payload: unpacks what Python packed, block by block, when it is looked at. */

/**
 * @typedef {object} LayerEntry
 * @property {number} position among the attentions that were seen
 * @property {string} name of the module
 * @property {"self" | "cross"} kind
 * @property {number} heads H
 * @property {number} queries which of the texts the queries are
 * @property {number} keys which of the texts the keys are
 * @property {number} added how many of the keys, the last ones, are those of no token
 * @property {1 | 2 | 4} width bytes of a packed integer
 */

/**
 * @typedef {object} Contents
 * @property {string} title
 * @property {Record<string, string>} facts
 * @property {{mean: number, worst: number} | null} share of the weight that the page holds, null if it isn't known
 * @property {boolean} live true if any block can be had, false if the page holds all that there is
 * @property {LayerEntry[]} layers
 * @property {Record<string, (number | null)[][]>} statistics each as [layer][head]
 * @property {string[][]} texts lists of tokens
 * @property {import("./views/product/vectors.js").Rotary} [rotary] how positions turn q and k, where that is known
 * @property {import("./views/report/plane.js").Likeness | null} [likeness] of the heads; null if they weren't compared
 * @property {({starts: number[], texts: string[]} | null)[]} [words] of each text, null where nobody can say
 * @property {(string | null)[]} [read] each text as a person reads it, null where nobody can say
 * @property {(number[] | null)[]} [segments] the sentence of each token of each text, null where there is one only
 * @property {({layer: number | null, says: string | null} | null)[]} [patterns] of each layer: whose block has its
 *   pattern, and a word for it
 * @property {{source: string, rows: number, columns: number, first: number} | null} [image] what a vision model read,
 *   as a data URL, cut into patches that stand after `first` other tokens
 */

/** @typedef {{position: number, weight: number}} Entry a token and a weight */

/**
 * @typedef {object} Blocks where packed bytes come from: the document, a server, a notebook's kernel
 * @property {(name: string) => boolean} has
 * @property {(name: string) => Promise<Uint8Array>} packed
 */

const INTEGERS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };

/** @param {Uint8Array} packed zlib @returns {Promise<ArrayBuffer>} */
async function inflate(packed) {
  const stream = new Blob([/** @type {BlobPart} */ (packed)]).stream();
  return new Response(stream.pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

/** The weights that 8 bits stand for. */
const WEIGHTS = Float32Array.from({ length: 256 }, (_, code) => (code / 255) ** 2);

/** @param {Uint8Array} codes @returns {Float32Array} */
function weightsOf(codes) {
  const weights = new Float32Array(codes.length);
  for (let at = 0; at < codes.length; at++) weights[at] = WEIGHTS[codes[at]];
  return weights;
}

/** One attention: of each head and query the heaviest keys, as three flat arrays. */
export class Layer {
  /**
   * @param {LayerEntry} entry
   * @param {string[]} queries
   * @param {string[]} keys
   * @param {ArrayBuffer} buffer counts, gaps, rests, weights (see payload.py)
   */
  constructor(entry, queries, keys, buffer) {
    this.entry = entry;
    this.queries = queries;
    this.keys = keys;
    const rows = entry.heads * queries.length;
    const integers = INTEGERS[entry.width];
    const counts = new integers(buffer, 0, rows);
    /** Where each row (head · Tq + query) starts in the two below, and where the last one ends. */
    this.starts = new Uint32Array(rows + 1);
    for (let row = 0; row < rows; row++) this.starts[row + 1] = this.starts[row] + counts[row];
    const listed = this.starts[rows];
    const after = (rows + listed) * entry.width;
    const gaps = new integers(buffer, rows * entry.width, listed);
    this.rests = weightsOf(new Uint8Array(buffer, after, rows));
    this.weights = weightsOf(new Uint8Array(buffer, after + rows, listed));
    /** Ascending in each row. */
    this.positions = new Uint32Array(listed);
    for (let row = 0; row < rows; row++) {
      let position = 0;
      for (let at = this.starts[row]; at < this.starts[row + 1]; at++) {
        this.positions[at] = position += gaps[at];
      }
    }
  }

  /** How far down the queries begin: in self-attention they are the last Tq positions of the tokens. */
  get offset() {
    const { kind, added } = this.entry;
    return kind === "self" ? Math.max(0, this.keys.length - added - this.queries.length) : 0;
  }

  /** @param {number} head @param {number} query @returns {number} its weight that is on no listed key */
  rest(head, query) {
    return this.rests[head * this.queries.length + query];
  }

  /** @param {number} head @param {number} query @returns {Entry[]} its keys, heaviest first */
  row(head, query) {
    const row = head * this.queries.length + query;
    /** @type {Entry[]} */
    const entries = [];
    for (let at = this.starts[row]; at < this.starts[row + 1]; at++) {
      entries.push({ position: this.positions[at], weight: this.weights[at] });
    }
    return entries.sort((a, b) => b.weight - a.weight);
  }

  /** @param {number} head @param {number} key @returns {Entry[]} the queries that list it, heaviest first */
  column(head, key) {
    /** @type {Entry[]} */
    const entries = [];
    const first = head * this.queries.length;
    for (let query = 0; query < this.queries.length; query++) {
      for (let at = this.starts[first + query]; at < this.starts[first + query + 1]; at++) {
        if (this.positions[at] === key) entries.push({ position: query, weight: this.weights[at] });
      }
    }
    return entries.sort((a, b) => b.weight - a.weight);
  }
}

/** How many blocks stay unpacked; those looked at longest ago go first. */
const KEPT = 64;

/** All that the page shows. */
export class Payload {
  /** @type {Map<string, Promise<any>>} in the order of their last use */
  #unpacked = new Map();
  #blocks;

  /**
   * @param {Contents} contents
   * @param {Blocks} blocks
   */
  constructor(contents, blocks) {
    this.contents = contents;
    this.#blocks = blocks;
  }

  /** @param {string} name @returns {boolean} whether this block can be had */
  has(name) {
    return this.#blocks.has(name);
  }

  /**
   * @template Shown
   * @param {string} name
   * @param {(buffer: ArrayBuffer) => Shown} read makes of a block's bytes what is shown; the same for all of a kind
   * @returns {Promise<Shown>}
   */
  block(name, read) {
    const block = this.#unpacked.get(name) ?? this.#blocks.packed(name).then(inflate).then(read);
    this.#unpacked.delete(name);
    this.#unpacked.set(name, block);
    if (this.#unpacked.size > KEPT) this.#unpacked.delete(this.#unpacked.keys().next().value ?? "");
    block.catch(() => this.#unpacked.delete(name)); // may be had another time
    return block;
  }

  /** @param {number} index @returns {Promise<Layer>} */
  layer(index) {
    const entry = this.contents.layers[index];
    const { texts } = this.contents;
    return this.block(`layer-${index}`, (buffer) => new Layer(entry, texts[entry.queries], texts[entry.keys], buffer));
  }
}
