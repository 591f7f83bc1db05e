/* Forward: softmax(scores) v, a block of queries at a time, over the tiles of keys that it sees (Dao et al. 2022).
 *
 *     QT [D][Q]      the block's queries, turned          for each tile of KEYS keys:
 *     S  [KEYS][Q]   scores, then weights                     S   = K QT, scaled, capped, biased, masked
 *     OT [Dv][Q]     the output so far                        S   = exp(S - m), m the highest so far
 *                                                             OT  = OT shrink + V^T S
 *
 * Queries lie in the lanes of the vectors, so that maximum, sum, mask and statistics are vertical; K and V are read
 * where they lie. Only queries are turned on the way in, and outputs on the way out. Here the products are made in
 * float32; forward_pairs.h makes those of bfloat16 where there are instructions for it.
 */
#pragma once
#include "decode.h"
#include "forward_block.h"
#include "forward_pairs.h"

namespace clearhead::ISA {

/* Weights as float32, in place of the scores they come from. */
struct InPlace {
    static constexpr bool STALE = false;
    static constexpr int DEGREE = 6;
    float *S, *factor; /* [KEYS][Q], [Q] */
    void put(int64_t j, int n, vec w0, vec w1) const {
        store(S + j * Q + n * W, w0);
        store(S + (j + 1) * Q + n * W, w1);
    }
    void amend(int64_t j, int lane, float w) const { S[j * Q + lane] = w; }
    void shrink(int n, vec x) const { store(factor + n * W, x); }
};

/* OT[dv][n vectors from `from`] = OT * shrink + V^T S over a span of keys. */
template <int n>
inline void output_products(Rows values, Span span, int64_t Dv, const float* S, const float* shrink, int from,
                            float* OT) {
    constexpr int m = n == 1 ? 8 : M;
    for (int64_t d = 0; d < Dv; d += m) {
        auto sums = product<m, n>(values.at + span.start * values.stride + d, 1, values.stride,
                                  S + span.start * Q + from * W, Q, span.stop - span.start);
        for (int x = 0; x < n; ++x) {
            vec factor = load(shrink + (from + x) * W);
            for (int i = 0; i < m; ++i) {
                float* o = OT + (d + i) * Q + (from + x) * W;
                store(o, fma(load(o), factor, sums.at[i][x]));
            }
        }
    }
}

/* A tile's rows: where they lie if they can be read there, else a copy. */
template <class T>
inline Rows tile_rows(const Tensor& x, const Block& block, const Tile& tile, int64_t width, int64_t wide, float* copied,
                      bool clean) {
    const T* from = row_at<T>(x, block.b, block.kv, tile.start);
    int64_t n = tile.stop - tile.start;
    if constexpr (__is_same(T, float))
        if (width == wide && n % STEP == 0 && !clean) return {from, x.row};
    return copy(from, x.row, n, width, copied, above(n, STEP), wide, clean);
}

/* Whether any value of a key head is NaN or infinite. */
template <class T>
inline bool any_wild(const Tensor& x, int64_t b, int64_t h, int64_t rows, int64_t width) {
    vec sum = {}; /* x - x is 0, or NaN for what is wild, and NaN stays */
    for (int64_t j = 0; j < rows; ++j)
        for (int64_t d = 0; d < width; d += W) {
            vec y = load_part(row_at<T>(x, b, h, j) + d, width - d);
            sum += y - y;
        }
    return any(sum != 0.0f);
}

/* A block's memory for products in float32. */
struct Floats {
    float *QT, *S, *K, *V;
    int64_t Dv; /* padded to the micro-tile */
    float shrink[Q];
};

inline size_t floats_bytes(const Call& c) {
    return (c.D * Q + KEYS * Q + KEYS * c.D + KEYS * above(c.Dv, 8)) * 4 + sizeof(Floats) + 512;
}

template <int n, bool probe, bool drop>
inline void forward_tile(Forward& f, Floats& g, const Tile& tile, int from, Span span, Rows keys, Rows values) {
    const Call& c = *f.block.c;
    score_products<n>(c, keys, span, g.QT, from, g.S);
    InPlace weights{g.S, g.shrink};
    for (int x = from; x < from + n; ++x) {
        if (!tile.whole || !plain(c)) finish_scores(f.block, tile, x, span, g.S);
        take_in<probe, drop>(f.run, f.block, tile, x, span, g.S, weights);
    }
    output_products<n>(values, span, g.Dv, g.S, g.shrink, from, f.OT);
}

template <class T, bool probe, bool drop>
inline void forward_block(const Call& c, int64_t task, int64_t parts, const Left& left) {
    Arena arena{static_cast<char*>(clearhead_scratch(forward_bytes(c) + floats_bytes(c)))};
    Forward& f = begin_forward(c, task, parts, arena);
    Floats& g = *arena.take<Floats>(1);
    const Block& block = f.block;
    begin(f.run, block, 1.0f);
    g.Dv = above(c.Dv, 8);
    g.QT = arena.take<float>(c.D * Q);
    g.S = arena.take<float>(KEYS * Q);
    g.K = arena.take<float>(KEYS * c.D);
    g.V = arena.take<float>(KEYS * g.Dv);
    for (int n = 0; n < block.vectors; ++n) {
        T* rows[W];
        rows_of(block, c.q, n, rows);
        pack(rows, c.D, g.QT + n * W, Q);
    }
    for (Tile tile; next(f, tile);) {
        Tensor here = c.v;
        here.data = static_cast<T*>(here.data) + tile.start * here.row;
        bool wild = !tile.whole && any_wild<T>(here, block.b, block.kv, tile.stop - tile.start, c.Dv);
        Rows keys = tile_rows<T>(c.k, block, tile, c.D, c.D, g.K, false);
        Rows values = tile_rows<T>(c.v, block, tile, c.Dv, g.Dv, g.V, wild);
        if (tile.whole) {
            Span all{0, tile.stop - tile.start};
            if (block.vectors == 3) forward_tile<3, probe, drop>(f, g, tile, 0, all, keys, values);
            if (block.vectors == 2) forward_tile<2, probe, drop>(f, g, tile, 0, all, keys, values);
            if (block.vectors == 1) forward_tile<1, probe, drop>(f, g, tile, 0, all, keys, values);
            continue;
        }
        for (int n = 0; n < block.vectors; ++n) {
            Span seen = span(block, tile, n);
            if (seen.start == seen.stop) continue;
            forward_tile<1, probe, drop>(f, g, tile, n, seen, keys, values);
            if (wild) add_wild_values<T>(block, tile, n, seen, f.OT);
        }
    }
    finish_forward<T, probe>(f, task, parts, left);
}

/* Blocks of later queries, which often see more keys, come first, so that the last tasks are short. */
template <class T>
inline void forward_of(const Call& c) {
    const int64_t blocks = count_blocks(c), of = parts(c);
    Left left = leave(c, static_cast<char*>(clearhead_common(left_bytes(c))));
    parallel(c.threads, blocks * of, [&](int64_t t) {
        t = blocks * of - 1 - t;
        if (c.probe.peak && c.dropout > 0) forward_block<T, true, true>(c, t, of, left);
        else if (c.probe.peak) forward_block<T, true, false>(c, t, of, left);
        else if (c.dropout > 0) forward_block<T, false, true>(c, t, of, left);
        else forward_block<T, false, false>(c, t, of, left);
    });
}

inline void forward(const Call& c) {
    if (decodes(c)) return decode(c);
    if (c.type == FLOAT32) forward_of<float>(c);
    if (c.type == FLOAT16) forward_of<float16>(c);
#if defined(__AVX512BF16__)
    if (c.type == BFLOAT16) forward_pairs(c);
#else
    if (c.type == BFLOAT16) forward_of<bfloat16>(c);
#endif
}

/* How many pairs the forward scores: whole tiles, and of cut ones the spans, without the keys that pad them. */
inline int64_t work(const Call& c) {
    int64_t pairs = 0;
    if (decodes(c)) { /* it scores what is seen, and nothing else */
        for (int64_t b = 0; b < c.B; ++b)
            for (int64_t h = 0; h < c.H; ++h)
                for (int64_t x = 0; x < c.Tq * c.runs.R; ++x) {
                    int64_t at = b * c.runs.batch + h * c.runs.head + x;
                    pairs += most(c.runs.stop[at] - c.runs.start[at], 0);
                }
        return pairs;
    }
    parallel(c.threads, count_blocks(c), [&](int64_t t) {
        Arena arena{static_cast<char*>(clearhead_scratch(block_bytes(c) + sizeof(Block)))};
        Block& block = *arena.take<Block>(1);
        enter(block, c, t, arena);
        int64_t scored = 0;
        for (Tile tile; next(block, tile);)
            for (int n = 0; n < block.vectors; ++n) {
                Span seen = tile.whole ? Span{0, tile.stop - tile.start} : span(block, tile, n);
                int64_t keys = most(least(seen.stop, tile.stop - tile.start) - seen.start, 0);
                scored += keys * least(block.count - n * W, W);
            }
        __atomic_add_fetch(&pairs, scored, __ATOMIC_RELAXED);
    });
    return pairs;
}

}  // namespace clearhead::ISA
