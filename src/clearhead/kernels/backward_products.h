/* The five products of the backward on a tile, all of them product.h's, none of which packs what it reads.
 *
 *     S  [key][query] = K QT       dP [key][query] = V dOT      a row of K or V against a panel of queries
 *     dQT [D][query] += KT dS                                   a column of K against the rows of dS
 *     dV [key][Dv]   += P dO       dK [key][D]    += dS Q       a row of P or dS against rows of dO or Q
 */
#pragma once
#include "scores.h"

namespace clearhead::ISA {

/* S[key][n vectors from `from`] = rows . panel over a span of keys. */
template <int n>
inline void panel_products(Rows rows, Span span, const float* panel, int from, int64_t depth, float* S) {
    constexpr int m = n == 1 ? 8 : M;
    for (int64_t j = span.start; j < span.stop; j += m) {
        auto sums = product<m, n>(rows.at + j * rows.stride, rows.stride, 1, panel + from * W, Q, depth);
        for (int i = 0; i < m; ++i)
            for (int x = 0; x < n; ++x) store(S + (j + i) * Q + (from + x) * W, sums.at[i][x]);
    }
}

/* panel[d][n vectors from `from`] += rowsT S over a span of keys; `depth` numbers a row, a multiple of 8. */
template <int n>
inline void turned_products(Rows rows, Span span, const float* S, int from, int64_t depth, float* panel) {
    constexpr int m = n == 1 ? 8 : M;
    for (int64_t d = 0; d < depth; d += m) {
        auto sums = product<m, n>(rows.at + span.start * rows.stride + d, 1, rows.stride, S + span.start * Q + from * W,
                                  Q, span.stop - span.start);
        for (int i = 0; i < m; ++i)
            for (int x = 0; x < n; ++x) {
                float* o = panel + (d + i) * Q + (from + x) * W;
                store(o, load(o) + sums.at[i][x]);
            }
    }
}

template <int m, int n>
inline void key_products_of(const float* S, Span span, const float* rows, int64_t stride, int64_t queries, float* sums,
                            int64_t width) {
    for (int64_t j = span.start; j < span.stop; j += m) {
        auto more = product<m, n>(S + j * Q, Q, 1, rows, stride, queries);
        for (int i = 0; i < m; ++i)
            for (int x = 0; x < n; ++x) {
                float* o = sums + (j + i) * width + x * W;
                store(o, load(o) + more.at[i][x]);
            }
    }
}

/* How many vectors to take of so many that are left: as wide as the registers hold, and no lone one behind. */
inline int64_t take_vectors(int64_t left) {
#if defined(__AVX512F__) || defined(__aarch64__)
    return left % 4 == 0 ? 4 : least(left, 3);
#else
    return left % 3 == 0 ? 3 : least(left, 2);
#endif
}

/* sums[key][d] += S[key][query] rows[query][d] over a span of keys; `width` numbers a row, a multiple of W. */
inline void key_products(const float* S, Span span, Rows rows, int64_t queries, float* sums, int64_t width) {
    for (int64_t d = 0; d < width;) {
        int64_t n = take_vectors((width - d) / W);
        const float* from = rows.at + d;
        if (n == 1) key_products_of<8, 1>(S, span, from, rows.stride, queries, sums + d, width);
        if (n == 2) key_products_of<M, 2>(S, span, from, rows.stride, queries, sums + d, width);
        if (n == 3) key_products_of<M, 3>(S, span, from, rows.stride, queries, sums + d, width);
        if (n == 4) key_products_of<4, 4>(S, span, from, rows.stride, queries, sums + d, width);
        d += n * W;
    }
}

}  // namespace clearhead::ISA
