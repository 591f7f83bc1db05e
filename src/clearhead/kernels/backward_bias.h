/* Gradients of biases: the scores' own, dS[key][query], summed over all pairs that share an entry.
 *
 *     by distance   dtable[b, h, i - j + Tk - 1]   a vector of queries lies along the table: one sum a key
 *     by pair       ddense[b, h, i, j]             turned to rows of keys; summed over the dimensions that it shares
 *
 * Entries that belong to a tile of keys are added to while the tile is the task's own. Those that all tiles share, by
 * distance or by query alone, are summed up for each block first, and added when the task's turn to end has come.
 */
#pragma once
#include "backward_rows.h"

namespace clearhead::ISA {

/* The strides of ddense: contiguous over the dimensions that the bias does not share, 0 along the others. */
struct Layout {
    int64_t batch, head, row, column;
};

inline Layout dense_layout(const Call& c) {
    Layout x;
    int64_t queries = c.bias.row ? c.Tk - c.past : 1, keys = c.bias.column ? c.Tk : 1;
    x.column = c.bias.column != 0;
    x.row = c.bias.row ? keys : 0;
    x.head = c.bias.dense_head ? queries * keys : 0;
    x.batch = c.bias.batch ? (c.bias.dense_head ? c.H : 1) * queries * keys : 0;
    return x;
}

/* Whether tasks of different batches or key heads add to the same entries. */
inline bool bias_shared(const Call& c) {
    bool batches = c.B > 1, heads = c.K > 1;
    return (c.dtable && ((batches && !c.bias.table_batch) || (heads && !c.bias.head))) ||
           (c.ddense && ((batches && !c.bias.batch) || (heads && !c.bias.dense_head)));
}

/* A block's own sums. */
struct BiasSums {
    float* distance; /* [i - j + last]: i a lane, j a key before `last`; null where lanes are not in order */
    int64_t first, last;
    float* query; /* [Q] */
};

/* The lanes of vector n that hold a query. */
inline int64_t lanes_of(const Block& block, int n) { return least(block.count - n * W, W); }

inline void add_table_gradient(const Call& c, const Block& block, const BiasSums& sums, const Tile& tile, int n,
                               Span span, const float* dS) {
    int64_t stop = least(span.stop, tile.stop - tile.start);
    if (sums.distance) {
        float* entries = sums.distance + n * W + sums.last - tile.start;
        for (int64_t first = 0; first < W; ++first) /* W keys apart: what was just stored is not loaded again */
            for (int64_t j = span.start + first; j < stop; j += W)
                store(entries - j, load(entries - j) + load(dS + j * Q + n * W));
        return;
    }
    for (int lane = n * W; lane < n * W + lanes_of(block, n); ++lane) {
        float* entries = block.table(c.dtable, lane) + block.query[lane] + c.Tk - 1 - tile.start;
        for (int64_t j = span.start; j < stop; ++j) entries[-j] += dS[j * Q + lane];
    }
}

inline void add_dense_gradient(const Call& c, const Block& block, const BiasSums& sums, const Tile& tile, int n,
                               Span span, const float* dS) {
    const Layout layout = dense_layout(c);
    int64_t stop = least(span.stop, tile.stop - tile.start), count = lanes_of(block, n);
    if (!layout.column) {
        vec sum = load(sums.query + n * W);
        for (int64_t j = span.start; j < stop; ++j) sum += load(dS + j * Q + n * W);
        return store(sums.query + n * W, sum);
    }
    float* row[W];
    for (int i = 0; i < count; ++i) {
        int lane = n * W + i;
        row[i] = c.ddense + block.b * layout.batch + block.head[lane] * layout.head + block.query[lane] * layout.row +
                 tile.start;
    }
    if (!layout.row && block.one_head) { /* one entry a key */
        ivec inside = lanes() < (int32_t)count;
        for (int64_t j = span.start; j < stop; ++j)
            row[0][j] += sum_of(select(inside, load(dS + j * Q + n * W), vec{}));
    } else {
        for (int64_t j = span.start; j < stop; j += W) {
            int64_t keys = least(W, stop - j);
            vec square[W];
            for (int64_t x = 0; x < W; ++x) square[x] = x < keys ? load(dS + (j + x) * Q + n * W) : vec{};
            transpose(square);
            for (int i = 0; i < count; ++i) store_part(row[i] + j, load_part(row[i] + j, keys) + square[i], keys);
        }
    }
}

inline void add_bias_gradients(const Call& c, const Block& block, const BiasSums& sums, const Tile& tile, int n,
                               Span span, const float* dS) {
    if (lanes_of(block, n) <= 0) return;
    if (c.dtable) add_table_gradient(c, block, sums, tile, n, span, dS);
    if (c.ddense) add_dense_gradient(c, block, sums, tile, n, span, dS);
}

inline size_t bias_bytes(const Call& c) { return (Q + (c.dtable ? above(c.Tk, KEYS) + Q : 0)) * 4 + 128; }

/* Zeroed sums of a block that stands before its first tile. */
inline BiasSums begin_bias(const Call& c, const Block& block, Arena& arena) {
    BiasSums sums{nullptr, block.tile * KEYS, block.last * KEYS, arena.take<float>(Q)};
    memset(sums.query, 0, Q * 4);
    if (!c.dtable || !block.in_order) return sums;
    int64_t entries = most(sums.last - sums.first, 0) + Q;
    sums.distance = arena.take<float>(entries);
    memset(sums.distance, 0, entries * 4);
    return sums;
}

inline void end_bias(const Call& c, const Block& block, const BiasSums& sums) {
    if (c.dtable && sums.distance && sums.first < sums.last) {
        float* entries = block.table(c.dtable, 0) + block.query[0] + c.Tk - 1 - sums.last;
        int64_t stop = block.count + sums.last - sums.first;
        /* The last tile may be longer than the keys are. */
        for (int64_t x = most(1, 1 + sums.last - c.Tk); x < stop; ++x) entries[x] += sums.distance[x];
    }
    if (!c.ddense || c.bias.column) return;
    const Layout layout = dense_layout(c);
    for (int lane = 0; lane < block.count; ++lane)
        c.ddense[block.b * layout.batch + block.head[lane] * layout.head + block.query[lane] * layout.row] +=
            sums.query[lane];
}

}  // namespace clearhead::ISA
