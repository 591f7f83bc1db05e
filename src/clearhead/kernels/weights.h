/* A second pass over the scores, a block of queries at a time, with each row's highest score and its weight known:
 *
 *     w[i, j] = exp(s[i, j] - max_score[i]) peak[i]
 *
 * As exact among huge scores as among small ones, where exp(s - lse) would have lost the digits of lse.
 *
 *     QT [D][Q]      the block's queries, turned        S [KEYS][Q]   the scores of one tile of keys
 */
#pragma once
#include <stdio.h>
#include <stdlib.h>

#include "forward.h"

namespace clearhead::ISA {

struct Pass {
    Block block;
    Span keys; /* that are asked about: tiles outside are passed by */
    float *QT, *S, *K;
    float base[Q], peak[Q];

    Tile tile;    /* whose scores S holds: */
    Span seen[N]; /* of each vector of queries, these keys, counted from the tile's start */
};

inline size_t pass_bytes(const Call& c) {
    return block_bytes(c) + (c.D * Q + KEYS * Q + KEYS * c.D) * 4 + sizeof(Pass) + 4096;
}

/* Lanes beyond the block's rows repeat its last one, so that nothing else gets in, and weigh nothing. */
template <class T>
inline void pack_queries(Pass& pass) {
    const Call& c = *pass.block.c;
    for (int n = 0; n < pass.block.vectors; ++n) {
        const T* rows[W];
        for (int i = 0; i < W; ++i) {
            int lane = n * W + i;
            rows[i] = row_at<T>(c.q, pass.block.b, pass.block.head[lane], pass.block.query_row(lane));
        }
        pack(rows, c.D, pass.QT + n * W, Q);
    }
}

/* Block number `index`, before its first tile. */
inline Pass& begin_pass(const Call& c, int64_t index, Span keys, Arena& arena) {
    Pass& pass = *arena.take<Pass>(1);
    Block& block = pass.block;
    enter(block, c, index, arena);
    pass.keys = keys;
    pass.QT = arena.take<float>(c.D * Q);
    pass.S = arena.take<float>(KEYS * Q);
    pass.K = arena.take<float>(KEYS * c.D);
    if (c.type == FLOAT32) pack_queries<float>(pass);
    if (c.type == BFLOAT16) pack_queries<bfloat16>(pass);
    if (c.type == FLOAT16) pack_queries<float16>(pass);
    for (int lane = 0; lane < Q; ++lane) {
        float top = c.probe.max_score[block.row(lane)];
        pass.base[lane] = top == -INF ? 0.0f : top;
        pass.peak[lane] = lane < block.count ? c.probe.peak[block.row(lane)] : 0.0f;
    }
    return pass;
}

inline void score_tile(Pass& pass) {
    const Block& block = pass.block;
    const Call& c = *block.c;
    Rows keys;
    if (c.type == FLOAT32) keys = tile_rows<float>(c.k, block, pass.tile, c.D, c.D, pass.K, false);
    if (c.type == BFLOAT16) keys = tile_rows<bfloat16>(c.k, block, pass.tile, c.D, c.D, pass.K, false);
    if (c.type == FLOAT16) keys = tile_rows<float16>(c.k, block, pass.tile, c.D, c.D, pass.K, false);
    Span all{0, pass.tile.stop - pass.tile.start};
    if (pass.tile.whole) {
        if (block.vectors == 3) score_products<3>(c, keys, all, pass.QT, 0, pass.S);
        if (block.vectors == 2) score_products<2>(c, keys, all, pass.QT, 0, pass.S);
        if (block.vectors == 1) score_products<1>(c, keys, all, pass.QT, 0, pass.S);
    }
    for (int n = 0; n < block.vectors; ++n) {
        pass.seen[n] = pass.tile.whole ? all : span(block, pass.tile, n);
        if (!pass.tile.whole) score_products<1>(c, keys, pass.seen[n], pass.QT, n, pass.S);
        if (!pass.tile.whole || !plain(c)) finish_scores(block, pass.tile, n, pass.seen[n], pass.S);
    }
}

/* Goes to the next tile that is seen and asked about, and scores it; false at the end. */
inline bool next_tile(Pass& pass) {
    while (next(pass.block, pass.tile)) {
        if (pass.tile.stop <= pass.keys.start || pass.tile.start >= pass.keys.stop) continue;
        score_tile(pass);
        return true;
    }
    return false;
}

/* From the scores of vector n to its weights. Hidden keys weigh 0 even where all the row's weights are NaN. */
struct Weigh {
    const float* s;
    vec base, peak;

    Weigh(const Pass& pass, int n) : s(pass.S + n * W), base(load(pass.base + n * W)), peak(load(pass.peak + n * W)) {}

    vec operator()(int64_t j) const {
        vec x = load(s + j * Q);
        return x == -INF ? vec{} : exp2((x - base) * LOG2E) * peak;
    }
};

/* How many heads a unit of blocks holds, one after the other, as their outputs lie. */
inline int64_t heads_of_unit(const Call& c) { return c.H / units(c); }

/* Memory that all tasks share, of zeros; to be freed. */
template <class T>
inline T* zeros(int64_t n) {
    T* made = static_cast<T*>(calloc((size_t)n + 1, sizeof(T)));
    if (!made) {
        fprintf(stderr, "clearhead: there is no memory for %zu bytes of a kernel's own.\n", (size_t)n * sizeof(T));
        abort();
    }
    return made;
}

}  // namespace clearhead::ISA
