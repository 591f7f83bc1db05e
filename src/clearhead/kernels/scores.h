/* Scores of a tile, S[key][query]: softcap(scale q.k) + bias, and -inf where the pattern hides.
 *
 * The products come in from outside (they differ with the type); everything here is vertical, one vector of queries
 * at a time, over the span of keys that this vector sees.
 */
#pragma once
#include "exponential.h"
#include "product.h"
#include "walk.h"

namespace clearhead::ISA {

inline void add_table(const Block& block, const Tile& tile, int n, Span span, float* S) {
    const Call& c = *block.c;
    if (block.in_order && (n + 1) * W <= block.count) {
        const float* entries = block.table(c.bias.table, n * W) + block.query[n * W] + c.Tk - 1 - tile.start;
        for (int64_t j = span.start; j < span.stop; ++j) {
            if (tile.start + j >= c.Tk) break;
            float* s = S + j * Q + n * W;
            store(s, load(s) + load(entries - j));
        }
        return;
    }
    for (int64_t j = span.start; j < span.stop && tile.start + j < c.Tk; ++j)
        for (int i = 0; i < W; ++i) {
            int lane = n * W + i;
            int64_t entry = block.query[lane] - (tile.start + j) + c.Tk - 1;
            S[j * Q + lane] += block.table(c.bias.table, lane)[entry];
        }
}

template <class T>
inline void add_dense(const Block& block, const Tile& tile, int n, Span span, float* S) {
    const Call& c = *block.c;
    const T* row[W];
    for (int i = 0; i < W; ++i) {
        int lane = n * W + i;
        row[i] = static_cast<const T*>(c.bias.dense) + block.b * c.bias.batch + block.head[lane] * c.bias.dense_head +
                 block.query[lane] * c.bias.row + tile.start * c.bias.column;
    }
    int64_t stop = least(span.stop, c.Tk - tile.start);
    if (c.bias.column == 1) { /* rows of W keys, turned into columns of W queries */
        for (int64_t j = span.start; j < stop; j += W) {
            vec square[W];
            for (int i = 0; i < W; ++i) square[i] = load_part(row[i] + j, stop - j);
            transpose(square);
            for (int64_t x = 0; x < least(W, stop - j); ++x) {
                float* s = S + (j + x) * Q + n * W;
                store(s, load(s) + square[x]);
            }
        }
        return;
    }
    for (int64_t j = span.start; j < stop; ++j)
        for (int i = 0; i < W; ++i) S[j * Q + n * W + i] += widen(row[i][j * c.bias.column]);
}

/* Hides what vector n doesn't see. Of several runs mostly one alone reaches into a tile. */
inline void hide(const Block& block, const Tile& tile, int n, Span span, float* S) {
    const vec hidden = broadcast(-INF);
    int64_t run = 0, reach = 0;
    for (int64_t x = 0; x < block.R && block.R > 1; ++x) {
        ivec start = load(block.start + x * Q + n * W), stop = load(block.stop + x * Q + n * W);
        if (any((start < (int32_t)tile.stop) & (stop > (int32_t)tile.start))) run = x, ++reach;
    }
    if (reach > 1) {
        for (int64_t j = span.start; j < span.stop; ++j) {
            float* s = S + j * Q + n * W;
            store(s, select(sees(block, n, tile.start + j), load(s), hidden));
        }
        return;
    }
    /* start <= j < stop by one unsigned comparison would need no more, but compiles to as much */
    ivec start = load(block.start + run * Q + n * W), stop = load(block.stop + run * Q + n * W);
    for (int64_t j = span.start; j < span.stop; ++j) {
        float* s = S + j * Q + n * W;
        ivec key = broadcast((int32_t)(tile.start + j));
        vec x = load(s);
        x = key >= start ? x : hidden;
        store(s, key < stop ? x : hidden);
    }
}

/* From products to scores: softcap, bias and pattern, on the span of vector n. */
inline void finish_scores(const Block& block, const Tile& tile, int n, Span span, float* S) {
    const Call& c = *block.c;
    if (c.softcap != 0.0f)
        for (int64_t j = span.start; j < span.stop; ++j) {
            float* s = S + j * Q + n * W;
            store(s, tanh(load(s) / c.softcap) * c.softcap);
        }
    if (c.bias.table) add_table(block, tile, n, span, S);
    if (c.bias.dense) {
        if (c.bias.type == FLOAT32) add_dense<float>(block, tile, n, span, S);
        if (c.bias.type == BFLOAT16) add_dense<bfloat16>(block, tile, n, span, S);
        if (c.bias.type == FLOAT16) add_dense<float16>(block, tile, n, span, S);
    }
    if (!tile.whole) hide(block, tile, n, span, S);
}

/* Whether scores are products and nothing else, so that there is nothing to finish on whole tiles. */
inline bool plain(const Call& c) { return c.softcap == 0.0f && !c.bias.table && !c.bias.dense; }

/* Raw products, scaled: S[key][n vectors from `from`] over a span of keys. QT is the block's panel. */
template <int n>
inline void score_products(const Call& c, Rows keys, Span span, const float* QT, int from, float* S) {
    constexpr int m = n == 1 ? 8 : M;
    for (int64_t j = span.start; j < span.stop; j += m) {
        auto sums = product<m, n>(keys.at + j * keys.stride, keys.stride, 1, QT + from * W, Q, c.D);
        for (int i = 0; i < m; ++i)
            for (int x = 0; x < n; ++x) store(S + (j + i) * Q + (from + x) * W, sums.at[i][x] * c.scale);
    }
}

}  // namespace clearhead::ISA
