/* A second pass over the scores, a block of queries at a time, with each row's highest score and its weight known:
 *
 *     w[i, j] = exp(s[i, j] - max_score[i]) peak[i]
 *
 * As exact among huge scores as among small ones, where exp(s - lse) would have lost the digits of lse.
 *
 *     QT [D][Q]      the block's queries, turned        S [KEYS][Q]   the scores of one tile of keys
 *
 * The products are made as in the forward, of bfloat16 in pairs where there are instructions for it.
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
    return block_bytes(c) + (above(c.D, 32) * (Q + KEYS) + KEYS * Q) * 4 + sizeof(Pass) + 4096;
}

/* Which query a lane is: the runs may be in another order than the queries. */
inline int64_t query_of(const Block& block, int lane) {
    const int64_t r = block.query_row(lane);
    return block.c->order ? block.c->order[r] : r;
}

/* Where the rows (B, H, Tq) have what is known of a lane. */
inline int64_t place_of(const Block& block, int lane) {
    return (block.b * block.c->H + block.head[lane]) * block.c->Tq + query_of(block, lane);
}

/* Key j of the runs. */
template <class T>
inline const T* key_at(const Block& block, int64_t j) {
    return row_at<T>(block.c->k, block.b, block.kv, block.c->named ? block.c->named[j] : j);
}

/* A tile's keys in float32, and the scores that they make. */
template <class T>
struct KeyRows {
    Rows rows;

    KeyRows(const Pass& pass, Span some) {
        const Call& c = *pass.block.c;
        if (!c.named) {
            rows = tile_rows<T>(c.k, pass.block, pass.tile, c.D, c.D, pass.K, false);
            return;
        }
        for (int64_t j = some.start; j < some.stop; ++j) {
            const bool there = pass.tile.start + j < c.Tk;
            copy(there ? key_at<T>(pass.block, pass.tile.start + j) : nullptr, 0, there, c.D, pass.K + j * c.D, 1, c.D,
                 false);
        }
        rows = {pass.K, c.D};
    }

    static void pack_rows(const T* const* rows, int64_t D, float* panel) { pack(rows, D, panel, Q); }

    template <int n>
    void scores(const Pass& pass, Span span, int from) const {
        score_products<n>(*pass.block.c, rows, span, pass.QT, from, pass.S);
    }
};

#if defined(__AVX512BF16__)
/* The same in pairs. */
template <>
struct KeyRows<bfloat16> {
    PairRows rows;

    KeyRows(const Pass& pass, Span some) {
        const Call& c = *pass.block.c;
        bfloat16* copied = reinterpret_cast<bfloat16*>(pass.K);
        if (!c.named) {
            rows = tile_keys(pass.block, pass.tile, copied);
            return;
        }
        const int64_t wide = padded_D(c), stop = least(some.stop, c.Tk - pass.tile.start);
        if (c.D % PAIRED) memset(copied, 0, KEYS * wide * 2);
        for (int64_t j = some.start; c.D && j < stop; ++j)
            memcpy(copied + j * wide, key_at<bfloat16>(pass.block, pass.tile.start + j), c.D * 2);
        rows = {copied, wide};
    }

    static void pack_rows(const bfloat16* const* rows, int64_t D, float* panel) { pack_pairs(rows, D, panel); }

    template <int n>
    void scores(const Pass& pass, Span span, int from) const {
        const Call& c = *pass.block.c;
        Products::Ready ready;
        for (int64_t j = span.start / PAIRED * PAIRED; j < span.stop; j += PAIRED)
            Products::scores<n>(rows.at + j * rows.row, rows.row, pass.QT + from * W, padded_D(c),
                                pass.S + j * Q + from * W);
        for (int64_t j = span.start; j < span.stop; ++j)
            for (int x = from; x < from + n; ++x) {
                float* s = pass.S + j * Q + x * W;
                store(s, load(s) * c.scale);
            }
    }
};
#endif

/* Lanes beyond the block's rows repeat its last one, so that nothing else gets in, and weigh nothing. */
template <class T>
inline void pack_queries(Pass& pass) {
    const Block& block = pass.block;
    for (int n = 0; n < block.vectors; ++n) {
        const T* rows[W];
        for (int i = 0; i < W; ++i)
            rows[i] = row_at<T>(block.c->q, block.b, block.head[n * W + i], query_of(block, n * W + i));
        KeyRows<T>::pack_rows(rows, block.c->D, pass.QT + n * W);
    }
}

/* Block number `index`, before its first tile. */
inline Pass& begin_pass(const Call& c, int64_t index, Span keys, Arena& arena) {
    Pass& pass = *arena.take<Pass>(1);
    Block& block = pass.block;
    enter(block, c, index, arena);
    pass.keys = keys;
    pass.QT = arena.take<float>(above(c.D, 32) * Q);
    pass.S = arena.take<float>(KEYS * Q);
    pass.K = arena.take<float>(KEYS * above(c.D, 32));
    if (block.tile >= block.last) return pass; /* nothing is seen */
    if (c.type == FLOAT32) pack_queries<float>(pass);
    if (c.type == BFLOAT16) pack_queries<bfloat16>(pass);
    if (c.type == FLOAT16) pack_queries<float16>(pass);
    for (int lane = 0; lane < Q; ++lane) {
        float top = c.probe.max_score[place_of(block, lane)];
        pass.base[lane] = top == -INF ? 0.0f : top;
        pass.peak[lane] = lane < block.count ? c.probe.peak[place_of(block, lane)] : 0.0f;
    }
    return pass;
}

/* Of a cut tile all vectors' scores are made at once where their spans are much the same: that is twice as quick. */
template <class T>
inline void score_tile(Pass& pass) {
    const Block& block = pass.block;
    Span any{KEYS, 0};
    int64_t keys_seen = 0;
    for (int n = 0; n < block.vectors; ++n) {
        Span& seen = pass.seen[n];
        seen = pass.tile.whole ? Span{0, pass.tile.stop - pass.tile.start} : span(block, pass.tile, n);
        keys_seen += seen.stop - seen.start;
        if (seen.start < seen.stop) any = {least(any.start, seen.start), most(any.stop, seen.stop)};
    }
    KeyRows<T> keys(pass, any);
    const bool at_once = block.vectors * (any.stop - any.start) < 2 * keys_seen;
    if (at_once && block.vectors == 3) keys.template scores<3>(pass, any, 0);
    if (at_once && block.vectors == 2) keys.template scores<2>(pass, any, 0);
    for (int n = 0; n < block.vectors; ++n) {
        if (!at_once || block.vectors == 1) keys.template scores<1>(pass, pass.seen[n], n);
        if (!pass.tile.whole || !plain(*block.c)) finish_scores(block, pass.tile, n, pass.seen[n], pass.S);
    }
}

/* Goes to the next tile that is seen and asked about, and scores it; false at the end. */
inline bool next_tile(Pass& pass) {
    while (next(pass.block, pass.tile)) {
        if (pass.tile.stop <= pass.keys.start || pass.tile.start >= pass.keys.stop) continue;
        const int32_t type = pass.block.c->type;
        if (type == FLOAT32) score_tile<float>(pass);
        if (type == BFLOAT16) score_tile<bfloat16>(pass);
        if (type == FLOAT16) score_tile<float16>(pass);
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
