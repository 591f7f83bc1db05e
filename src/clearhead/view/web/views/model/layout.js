/** The layout of the wall: where each head's tile lies, all layers in rows or columns, or heads in any order. */

/** @typedef {import("../../grid.js").Spot} Spot */
/** @typedef {{layer: number, head: number, x: number, y: number}} Tile */
/** @typedef {{text: string, x: number, y: number, align: "left" | "center" | "right", heading?: boolean}} Label */

/**
 * @typedef {object} WallLayout
 * @property {Tile[]} tiles in the order in which one reads
 * @property {Label[]} labels
 * @property {number} size of a tile, in px
 * @property {number} height of all
 * @property {number[]} breaks heights between rows, at which the wall can be parted
 * @property {boolean} named true if each tile has its name below
 */

const TILE_GUTTER = 26;
const TILE_GAP = 3;
const TILE_STRIP = 5;
const TILE_NAME = 17;
const TILE_HEADING = 40;
const TILE_LARGEST = 64;
const TILE_LEAST_ACROSS = 18;

/** @param {{heads: number}[]} layers @returns {Spot[]} all heads, in the model's order */
export const spotsOf = (layers) =>
  layers.flatMap(({ heads }, layer) => Array.from({ length: heads }, (_, head) => ({ layer, head })));

/**
 * Every layer and head, in a grid: layers from left to right if tiles have room so, else from the top down.
 * @param {number[]} heads of each layer
 * @param {string[]} names of the layers
 * @param {number} width
 * @param {number} cells of a picture
 * @returns {WallLayout & {across: boolean}}
 */
export function inLayers(heads, names, width, cells) {
  const most = Math.max(...heads);
  const across = Math.floor((width - TILE_GUTTER) / heads.length) - TILE_GAP >= TILE_LEAST_ACROSS;
  const columns = across ? heads.length : most;
  const size = tileSize(Math.floor((width - TILE_GUTTER) / columns) - TILE_GAP, cells);
  const [wide, high] = [size + TILE_GAP, size + TILE_STRIP + TILE_GAP];
  /** @param {number} along @param {number} down */
  const place = (along, down) => ({ x: TILE_GUTTER + along * wide, y: TILE_GUTTER + down * high });
  const tiles = heads.flatMap((count, layer) => Array.from({ length: count }, (_, head) =>
    ({ layer, head, ...(across ? place(layer, head) : place(head, layer)) })));
  const [over, beside] = across ? [names, numbersTo(most)] : [numbersTo(most), names];
  const every = [1, 2, 5, 10, 20, 50].find((step) => step * wide >= 8 * over[over.length - 1].length + 6) ?? 100;
  const rows = across ? most : heads.length;
  return {
    tiles,
    labels: [
      ...over.flatMap((text, n) => (n % every ? [] :
        [{ text, x: TILE_GUTTER + n * wide + size / 2, y: TILE_GUTTER - 7, align: /** @type {const} */ ("center") }])),
      ...beside.map((text, n) =>
        ({ text, x: TILE_GUTTER - 7, y: TILE_GUTTER + n * high + size / 2 + 4, align: /** @type {const} */ ("right") })),
    ],
    size, across,
    height: TILE_GUTTER + rows * high,
    breaks: Array.from({ length: rows }, (_, n) => TILE_GUTTER + n * high),
    named: false,
  };
}

/**
 * Heads one after another, in groups under a heading each ("" for none).
 * @param {[string, Spot[]][]} groups
 * @param {number} width
 * @param {number} cells
 * @returns {WallLayout}
 */
export function inOrder(groups, width, cells) {
  const size = tileSize(TILE_LARGEST, cells);
  const [wide, high] = [size + 2 * TILE_GAP + 4, size + TILE_STRIP + TILE_NAME + TILE_GAP];
  const columns = Math.max(1, Math.floor((width + TILE_GAP) / wide));
  /** @type {WallLayout} */
  const made = { tiles: [], labels: [], size, height: 0, breaks: [], named: true };
  for (const [heading, spots] of groups) {
    made.breaks.push(made.height);
    if (heading) made.labels.push({ text: heading, x: 0, y: made.height + TILE_HEADING - 14, align: "left", heading: true });
    const top = made.height + (heading ? TILE_HEADING : 0);
    spots.forEach((spot, n) => {
      const y = top + Math.floor(n / columns) * high;
      if (n && n % columns === 0) made.breaks.push(y);
      made.tiles.push({ ...spot, x: (n % columns) * wide, y });
    });
    made.height = top + Math.ceil(spots.length / columns) * high;
  }
  return made;
}

/** @param {number} room @param {number} cells @returns {number} a whole multiple of the cells where there is room */
function tileSize(room, cells) {
  const size = Math.min(TILE_LARGEST, Math.max(room, 4));
  return size < cells ? size : size - (size % cells);
}

/** @param {number} count @returns {string[]} */
const numbersTo = (count) => Array.from({ length: count }, (_, n) => String(n));

/**
 * @param {Tile[]} tiles
 * @param {number} size
 * @param {number} x
 * @param {number} y
 * @returns {Tile | null}
 */
export function tileAt(tiles, size, x, y) {
  return tiles.find((tile) => x >= tile.x && x < tile.x + size + TILE_GAP && y >= tile.y && y < tile.y + size + TILE_STRIP) ?? null;
}

/**
 * The tile one comes to by an arrow key.
 * @param {Tile[]} tiles
 * @param {Tile} from
 * @param {string} key
 * @returns {Tile | null}
 */
export function stepOnWall(tiles, from, key) {
  const row = tiles.filter(({ y }) => y === from.y).sort((a, b) => a.x - b.x);
  if (key === "ArrowLeft") return row[row.indexOf(from) - 1] ?? null;
  if (key === "ArrowRight") return row[row.indexOf(from) + 1] ?? null;
  if (key === "Home") return row[0];
  if (key === "End") return row[row.length - 1];
  const down = key === "ArrowDown";
  const beyond = tiles.filter(({ y }) => (down ? y > from.y : y < from.y)).map(({ y }) => y);
  if (!beyond.length) return null;
  const nearest = down ? Math.min(...beyond) : Math.max(...beyond);
  const next = tiles.filter(({ y }) => y === nearest);
  return next.reduce((best, tile) => (Math.abs(tile.x - from.x) < Math.abs(best.x - from.x) ? tile : best));
}
