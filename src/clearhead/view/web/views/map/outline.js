/** The outline: the edge between what a query may see and what it may not, drawn around the map. */

/** @typedef {import("./camera.js").Camera} Camera */

/** The runs of keys that each query may see. */
export class Outline {
  #heads;
  #most;
  #rows;
  #starts;
  #stops;

  /** @param {ArrayBuffer} buffer as outline.py says */
  constructor(buffer) {
    const numbers = new Int32Array(buffer);
    [this.#heads, this.#most] = numbers;
    const half = (numbers.length - 2) / 2;
    this.#rows = half / (this.#heads * this.#most);
    for (let at = 2; at < numbers.length; at++) if ((at - 2) % this.#rows) numbers[at] += numbers[at - 1];
    this.#starts = numbers.subarray(2, 2 + half);
    this.#stops = numbers.subarray(2 + half);
  }

  /** @param {number} head @param {number} query @returns {[number, number][]} the runs [start, stop) that it has */
  runs(head, query) {
    /** @type {[number, number][]} */
    const runs = [];
    for (let run = 0; run < this.#most; run++) {
      const at = ((head % this.#heads) * this.#most + run) * this.#rows + query;
      if (this.#starts[at] < this.#stops[at]) runs.push([this.#starts[at], this.#stops[at]]);
    }
    return runs;
  }

  /** @param {number} head @param {number} query @param {number} key */
  sees(head, query, key) {
    return this.runs(head, query).some(([start, stop]) => start <= key && key < stop);
  }

  /**
   * What may be seen and is in sight, in px, as rows of some queries each.
   * @param {Camera} camera
   * @param {number} head
   * @returns {number[][]} rectangles as [x, y, width, height]
   */
  bands(camera, head) {
    const step = Math.max(1, Math.floor(1 / camera.scale));
    const last = Math.min(this.#rows, camera.query(camera.height));
    /** @type {number[][]} */
    const bands = [];
    for (let query = Math.floor(camera.top / step) * step; query < last; query += step) {
      const y = camera.y(query);
      const height = camera.y(Math.min(query + step, this.#rows)) - y;
      for (const [start, stop] of this.runs(head, query)) {
        bands.push([camera.x(start), y, (stop - start) * camera.across, height]);
      }
    }
    return bands;
  }

  /**
   * The edges in sight, in px: each run's two ends, and between two queries what one of them sees and the other not.
   * Where a pixel holds several queries one stands for them.
   * @param {Camera} camera
   * @param {number} head
   * @returns {number[][]} lines as [x, y, x, y]
   */
  edges(camera, head) {
    const step = Math.max(1, Math.floor(1 / camera.scale));
    const first = Math.max(0, Math.floor(camera.query(0) / step) * step);
    const last = Math.min(this.#rows, Math.ceil(camera.query(camera.height)) + step);
    /** @type {number[][]} */
    const lines = [];
    let before = first ? this.runs(head, Math.max(0, first - step)).flat() : [];
    for (let query = first; query <= last; query += step) {
      const row = Math.min(query, this.#rows);
      const here = query < this.#rows ? this.runs(head, query).flat() : [];
      const y = camera.y(row);
      const under = camera.y(Math.min(row + step, this.#rows));
      // Ends sorted: from an odd one to the next, one of the two rows sees and the other does not.
      const ends = [...before, ...here].sort((a, b) => a - b);
      for (let at = 0; at < ends.length; at += 2) {
        if (ends[at] < ends[at + 1]) lines.push([camera.x(ends[at]), y, camera.x(ends[at + 1]), y]);
      }
      for (const end of here) lines.push([camera.x(end), y, camera.x(end), under]);
      before = here;
    }
    return lines;
  }
}
