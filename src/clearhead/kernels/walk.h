/* The walk: blocks of queries, and which tiles of keys each sees, wholly, in part or not at all.
 *
 *              keys  0        64       128      192        A block is N vectors of queries that share one key head:
 *     block  +---------+---------+---------+---------+     queries of one head, or, where there are few (decode),
 *      of    | whole   | whole   | cut  .  | empty   |     of all the heads of a group.
 *    queries | whole   | whole   | cut .   | empty   |     An empty tile is never touched; a whole one pays for no
 *            +---------+---------+---------+---------+     mask; in a cut one each vector of queries has its own span
 *                                                          of keys, outside of which nothing is computed.
 */
#pragma once
#include "call.h"
#include "panel.h"
#include "parallel.h"
#include "vector.h"

namespace clearhead::ISA {

constexpr int KEYS = 64; /* keys in a tile */
constexpr int Q = N * W; /* queries in a block */
constexpr int STEP = 8;  /* keys that a micro-tile takes; spans are multiples of it */

inline int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
inline int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
inline int64_t above(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

/* Few queries are worked on together with those of the other heads of their group: head by head; and so are queries
 * that are listed in an order of their own, query by query. */
inline bool folded(const Call& c) { return (c.Tq < Q || c.order) && c.H > c.K; }
inline int64_t rows_of_unit(const Call& c) { return folded(c) ? c.H / c.K * c.Tq : c.Tq; }
inline int64_t units(const Call& c) { return folded(c) ? c.K : c.H; }
inline int64_t blocks_of_unit(const Call& c) { return (rows_of_unit(c) + Q - 1) / Q; }
inline int64_t count_blocks(const Call& c) { return c.B * units(c) * blocks_of_unit(c); }

struct Span {
    int64_t start, stop;
};

/* One tile of keys, [start, stop), as a block sees it. */
struct Tile {
    int64_t start, stop;
    bool whole;
};

struct Block {
    const Call* c;
    int64_t b, kv;
    int64_t first, count; /* its rows of the unit */
    int vectors;          /* that hold rows: ceil(count / W) */
    bool one_head;
    int64_t head[Q], place[Q], query[Q]; /* of each lane, and its row; lanes beyond count repeat the last */
    int64_t position[Q];                 /* among the keys */
    bool in_order;                       /* one head, positions one after the other */
    int64_t R;
    int32_t *start, *stop;  /* the runs, [R][Q]; lanes beyond count see nothing */
    int32_t *touch, *cover; /* changes, from tile to tile, in how many lanes see some of it, and all of it */
    int64_t tile, last;     /* the walk: the next tile, and where it ends */
    int32_t touching, covering;

    /* Where the table of a lane's head begins: bias.table itself, or its gradient. */
    template <class T>
    T* table(T* whole, int lane) const {
        return whole + b * c->bias.table_batch + head[lane] * c->bias.head;
    }
    int64_t row(int lane) const { return (b * c->H + head[lane]) * c->Tq + query_row(lane); }
    int64_t query_row(int lane) const { return place[lane]; }
};

inline size_t block_bytes(const Call& c) {
    int64_t tiles = c.Tk / KEYS + 3;
    return 2 * above(c.runs.R * Q * 4 + 64, 64) + 2 * above(tiles * 4, 64) + 256;
}

template <class T>
inline const T* row_at(const Tensor& x, int64_t b, int64_t h, int64_t i) {
    return static_cast<const T*>(x.data) + b * x.batch + h * x.head + i * x.row;
}

/* Which rows block number `index` is of; the heads of its lanes, those beyond its count too. */
inline void number(Block& block, const Call& c, int64_t index) {
    int64_t blocks = blocks_of_unit(c), unit = index / blocks % units(c), G = c.H / c.K;
    block.c = &c;
    block.b = index / blocks / units(c);
    block.kv = folded(c) ? unit : unit / G;
    block.first = index % blocks * Q;
    block.count = least(rows_of_unit(c) - block.first, Q);
    block.vectors = (int)((block.count + W - 1) / W);
    for (int lane = 0; lane < Q; ++lane) {
        const int64_t r = block.first + least(lane, block.count - 1);
        block.head[lane] = !folded(c) ? unit : unit * G + (c.order ? r % G : r / c.Tq);
        block.place[lane] = !folded(c) ? r : c.order ? r / G : r % c.Tq;
    }
}

/* Adds up at the places of an array; what comes to one place in a row is added once, as each addition to memory has to
 * wait for the one before. */
struct Tally {
    int32_t* counts;
    int64_t place = 0;
    int32_t here = 0;
    void add(int64_t to, int32_t x) {
        if (to != place) end(), place = to, here = 0;
        here += x;
    }
    void end() { counts[place] += here; }
};

/* The rows of block number `index`, their runs, and a walk that stands before the first tile. */
inline void enter(Block& block, const Call& c, int64_t index, Arena& arena) {
    number(block, c, index);
    block.one_head = !folded(c);
    block.in_order = block.one_head;
    block.R = c.runs.R;
    block.start = arena.take<int32_t>(block.R * Q);
    block.stop = arena.take<int32_t>(block.R * Q);
    int64_t tiles = c.Tk / KEYS + 3;
    block.touch = arena.take<int32_t>(tiles);
    block.cover = arena.take<int32_t>(tiles);
    int64_t low = c.Tk, high = 0;
    for (int lane = 0; lane < Q; ++lane) {
        int64_t i = block.query_row(lane);
        block.query[lane] = c.queries ? c.queries[i] : i;
        block.position[lane] = block.query[lane] + c.past;
        if (lane && lane < block.count && block.position[lane] != block.position[lane - 1] + 1) block.in_order = false;
        const int64_t at = block.b * c.runs.batch + block.head[lane] * c.runs.head + i * block.R;
        for (int64_t x = 0; x < block.R; ++x) {
            int32_t start = c.runs.start[at + x], stop = c.runs.stop[at + x];
            if (lane >= block.count || start >= stop) start = stop = 0;
            block.start[x * Q + lane] = start;
            block.stop[x * Q + lane] = stop;
            if (start < stop) low = least(low, start), high = most(high, stop);
        }
    }
    block.tile = low / KEYS;
    block.last = (high + KEYS - 1) / KEYS;
    block.touching = block.covering = 0;
    for (int64_t t = block.tile; t <= block.last + 1; ++t) block.touch[t] = block.cover[t] = 0;
    for (int64_t x = 0; x < block.R; ++x) {
        Tally first{block.touch, block.tile}, end{block.touch, block.tile}, from{block.cover, block.tile},
            to{block.cover, block.tile};
        for (int lane = 0; lane < block.count; ++lane) {
            const int64_t start = block.start[x * Q + lane], stop = block.stop[x * Q + lane];
            if (start >= stop) continue;
            first.add(start / KEYS, 1);
            end.add((stop - 1) / KEYS + 1, -1);
            const int64_t whole = (start + KEYS - 1) / KEYS, cut = (stop == c.Tk ? stop + KEYS - 1 : stop) / KEYS;
            if (whole < cut) from.add(whole, 1), to.add(cut, -1);
        }
        first.end(), end.end(), from.end(), to.end();
    }
}

/* The next tile that some query of the block sees; false at the end. */
inline bool next(Block& block, Tile& tile) {
    while (block.tile < block.last) {
        int64_t t = block.tile++;
        block.touching += block.touch[t];
        block.covering += block.cover[t];
        if (!block.touching) continue;
        tile.start = t * KEYS;
        tile.stop = least(tile.start + KEYS, block.c->Tk);
        /* A last tile that is no multiple of the micro-tile counts as cut, so that what it is padded with is hidden. */
        tile.whole = block.covering == block.count && (tile.stop - tile.start) % STEP == 0;
        return true;
    }
    return false;
}

/* The keys of a tile, counted from its start, that vector n of the block sees at all; empty: start = stop. */
inline Span span(const Block& block, const Tile& tile, int n) {
    ivec low = broadcast((int32_t)tile.stop), high = broadcast((int32_t)tile.start);
    for (int64_t x = 0; x < block.R; ++x) {
        ivec start = load(block.start + x * Q + n * W), stop = load(block.stop + x * Q + n * W);
        start = start > (int32_t)tile.start ? start : broadcast((int32_t)tile.start);
        stop = stop < (int32_t)tile.stop ? stop : broadcast((int32_t)tile.stop);
        ivec some = start < stop;
        low = some & (start < low) ? start : low;
        high = some & (stop > high) ? stop : high;
    }
    int32_t first = (int32_t)tile.stop, last = (int32_t)tile.start;
    for (int i = 0; i < W; ++i) {
        first = low[i] < first ? low[i] : first;
        last = high[i] > last ? high[i] : last;
    }
    if (first >= last) return {0, 0};
    return {(first - tile.start) / STEP * STEP, above(last - tile.start, STEP)};
}

/* Which queries of vector n see key j, as a mask of lanes. */
inline ivec sees(const Block& block, int n, int64_t j) {
    ivec mask = {};
    for (int64_t x = 0; x < block.R; ++x) {
        ivec start = load(block.start + x * Q + n * W), stop = load(block.stop + x * Q + n * W);
        mask |= (start <= (int32_t)j) & (stop > (int32_t)j);
    }
    return mask;
}

}  // namespace clearhead::ISA
