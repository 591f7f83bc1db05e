/* The backward on one tile: weights made again from the rows' highest score and sum, and what comes of them.
 *
 *     S  = K QT, scaled, capped, biased, masked       P  = exp(S - top) / sum          queries in lanes, as forward
 *     dP = V dOT                                      dS = P (keep dP - delta)         all vertical but the products
 *
 * What is hidden has P = 0 and dS = 0 by choice, not by multiplication: 0 times NaN would be NaN. Where anything of
 * q, k, v or dout is wild, NaN or infinite, the products that sum over pairs take copies in which that is 0: P and dS
 * carry what is wild to those who see it, except a wild dout into dv, which is added last.
 */
#pragma once
#include "backward_bias.h"
#include "backward_products.h"
#include "dropout.h"

namespace clearhead::ISA {

/* Rows of bfloat16. */
struct Halves {
    const bfloat16* at;
    int64_t row;
};

/* A block of queries, and what is held of it while the tiles pass. */
struct Held {
    Block block;
    Tile tile; /* the next that it sees */
    bool more;
    float base[Q], norm[Q], delta[Q]; /* P = exp(S - base) norm */
    float *QT, *dOT, *dQT;            /* [panel D][Q], [panel Dv][Q], [D][Q] */
    Rows q, dout;                     /* row by row, clean, padded to whole vectors */
    float *q_rows, *dout_rows;        /* room for those: [Q][wide D], [Q][wide Dv], one block's after the other's */
    BiasSums bias;
};

inline bool sees_tile(const Held& held, const Tile& tile) { return held.more && held.tile.start == tile.start; }

/* A tile of keys and its sums; K and V are padded to whole micro-tiles. */
struct Keys {
    Rows k, v, clean_k;
    float *dK, *dV;  /* [KEYS][wide D], [KEYS][wide Dv]; null where not wanted */
    Halves k16, v16; /* by AMX: rows as they are, */
    bfloat16* KT;    /* and turned, clean, [D][KEYS] */
};

/* What all tiles of a task work on. */
struct Backward {
    Call scored; /* the call without its softcap, which is done here, where its slope is wanted too */
    float softcap;
    bool wild;
    int64_t D, wide_D, wide_Dv; /* padded: to micro-tiles of rows, and to whole vectors */
    int64_t panel_D, panel_Dv;  /* rows of QT and dOT */
    float *S, *dP, *slope;      /* [KEYS][Q] */
    float *K, *V, *clean, *dK, *dV;
    bfloat16 *P16, *dS16; /* by AMX: [KEYS][queries of a group of blocks] */
};

/* Rows of the block as float32 rows of `wide`: where they lie, or copied. */
template <class T>
inline Rows block_rows(const Tensor& x, const Block& block, int64_t width, int64_t wide, float* copied, bool clean) {
    if constexpr (__is_same(T, float))
        if (block.one_head && width == wide && !clean)
            return {row_at<T>(x, block.b, block.head[0], block.query_row(0)), x.row};
    for (int lane = 0; lane < block.count; ++lane)
        copy(row_at<T>(x, block.b, block.head[lane], block.query_row(lane)), 0, 1, width, copied + lane * wide, 1, wide,
             clean);
    return {copied, wide};
}

/* The block's queries: turned, in lanes; and row by row. */
template <class T>
inline void hold_rows(const Backward& w, Held& held) {
    const Call& c = w.scored;
    for (int n = 0; n < held.block.vectors; ++n) {
        T* rows[W];
        rows_of<T>(held.block, c.q, n, rows);
        pack(rows, c.D, held.QT + n * W, Q);
        rows_of<T>(held.block, c.dout, n, rows);
        pack(rows, c.Dv, held.dOT + n * W, Q);
    }
    held.q = block_rows<T>(c.q, held.block, c.D, w.wide_D, held.q_rows, w.wild);
    held.dout = block_rows<T>(c.dout, held.block, c.Dv, w.wide_Dv, held.dout_rows, w.wild);
}

/* The tile's keys and values. */
template <class T>
inline void enter_rows(const Backward& w, const Block& block, const Tile& tile, Keys& keys) {
    const Call& c = w.scored;
    keys.k = keys.clean_k = tile_rows<T>(c.k, block, tile, c.D, w.D, w.K, false);
    if (w.wild) keys.clean_k = tile_rows<T>(c.k, block, tile, c.D, w.D, w.clean, true);
    keys.v = tile_rows<T>(c.v, block, tile, c.Dv, c.Dv, w.V, false);
}

/* S becomes softcap tanh(S / softcap), and slope its derivative. */
inline void cap(const Backward& w, int n, Span span) {
    for (int64_t j = span.start; j < span.stop; ++j) {
        int64_t at = j * Q + n * W;
        vec t = tanh(load(w.S + at) / w.softcap);
        store(w.S + at, t * w.softcap);
        store(w.slope + at, 1.0f - t * t);
    }
}

/* P and dS of one vector of queries, from S and dP. */
template <bool masked, bool drop>
struct Weigher {
    vec base, norm, delta;
    ivec nobody;
    Dropout dropout;

    Weigher(const Held& held, int n)
        : base(load(held.base + n * W)),
          norm(load(held.norm + n * W)),
          delta(load(held.delta + n * W)),
          nobody(lanes() >= (int32_t)lanes_of(held.block, n)),
          dropout(held.block, n) {}

    /* s is scaled by `factor` first. */
    void weigh(int64_t key, vec s, float factor, vec dp, vec& kept, vec& ds) {
        vec p = kept = exp2(fma(s, broadcast(factor), -base) * LOG2E) * norm;
        if constexpr (drop) {
            vec keep = dropout.keep(key);
            kept = p * keep;
            dp *= keep;
        }
        ds = p * (dp - delta);
        if constexpr (masked) {
            ivec hidden = (s == -INF) | nobody;
            kept = select(hidden, vec{}, kept);
            ds = select(hidden, vec{}, ds);
        }
    }
};

/* S becomes P, with what dropout keeps of it, and dP becomes dS, of vector n. */
template <bool masked, bool drop>
inline void weigh(const Backward& w, const Held& held, const Tile& tile, int n, Span span) {
    Weigher<masked, drop> weigher(held, n);
    for (int64_t j = span.start; j < span.stop; ++j) {
        float *s = w.S + j * Q + n * W, *dp = w.dP + j * Q + n * W;
        vec p, ds;
        weigher.weigh(tile.start + j, load(s), 1, load(dp), p, ds);
        store(s, p);
        store(dp, ds);
    }
}

/* The NaN and infinite numbers of dout, which were left out of dV, for the keys that are seen from there. */
template <class T>
inline void add_wild_gradients(const Backward& w, const Held& held, const Tile& tile) {
    const Block& block = held.block;
    const Call& c = w.scored;
    for (int lane = 0; lane < block.count; ++lane) {
        const T* dout = row_at<T>(c.dout, block.b, block.head[lane], block.query_row(lane));
        for (int64_t d = 0; d < c.Dv; ++d) {
            float x = widen(dout[d]);
            if (x - x == 0.0f) continue;
            for (int64_t j = tile.start; j < tile.stop; ++j)
                if (sees(block, lane / W, j)[lane % W]) w.dV[(j - tile.start) * w.wide_Dv + d] += x;
        }
    }
}

/* From products to P and dS, of vector n, and the gradients of biases on the way. */
inline void weigh_vector(const Backward& w, const Held& held, const Tile& tile, int n, Span span, bool masked) {
    const Call& c = w.scored;
    if (w.softcap != 0.0f) cap(w, n, span);
    if (masked) finish_scores(held.block, tile, n, span, w.S);
    if (masked && c.dropout > 0) weigh<true, true>(w, held, tile, n, span);
    else if (masked) weigh<true, false>(w, held, tile, n, span);
    else if (c.dropout > 0) weigh<false, true>(w, held, tile, n, span);
    else weigh<false, false>(w, held, tile, n, span);
    add_bias_gradients(c, held.block, held.bias, tile, n, span, w.dP);
    if (w.softcap == 0.0f) return;
    for (int64_t j = span.start; j < span.stop; ++j) {
        float* ds = w.dP + j * Q + n * W;
        vec through = load(ds) * load(w.slope + j * Q + n * W);
        store(ds, select(load(ds) == 0.0f, vec{}, through)); /* a hidden slope may be NaN */
    }
}

template <int n>
void backward_tile(const Backward& w, const Held& held, const Tile& tile, int from, Span span, const Keys& keys) {
    const Call& c = w.scored;
    const Block& block = held.block;
    score_products<n>(c, keys.k, span, held.QT, from, w.S);
    panel_products<n>(keys.v, span, held.dOT, from, c.Dv, w.dP);
    for (int x = from; x < from + n; ++x) weigh_vector(w, held, tile, x, span, !tile.whole || !plain(c));
    int64_t first = from * W, queries = least(block.count - first, n * W);
    if (keys.dV) {
        Rows dout{held.dout.at + first * held.dout.stride, held.dout.stride};
        key_products(w.S + first, span, dout, queries, w.dV, w.wide_Dv);
    }
    if (keys.dK) {
        Rows q{held.q.at + first * held.q.stride, held.q.stride};
        key_products(w.dP + first, span, q, queries, w.dK, w.wide_D);
    }
    if (c.dq.data) turned_products<n>(keys.clean_k, span, w.dP, from, w.D, held.dQT);
}

/* One block against a tile of keys: all its vectors at once, or each with the keys that it sees. */
inline void backward_keys(const Backward& w, const Held& held, const Tile& tile, const Keys& keys) {
    const int vectors = held.block.vectors;
    bool same = true; /* the span of all vectors */
    Span seen[N];
    for (int n = 0; n < vectors; ++n) {
        seen[n] = tile.whole ? Span{0, tile.stop - tile.start} : span(held.block, tile, n);
        same &= seen[n].start == seen[0].start && seen[n].stop == seen[0].stop;
    }
    if (same && vectors == 3) return backward_tile<3>(w, held, tile, 0, seen[0], keys);
    for (int n = 0; n < vectors; ++n)
        if (seen[n].start < seen[n].stop) backward_tile<1>(w, held, tile, n, seen[n], keys);
}

/* All blocks of a task against a tile of keys. */
template <class T>
inline void backward_blocks(const Backward& w, const Held* held, int64_t count, const Tile& tile, const Keys& keys) {
    for (int64_t x = 0; x < count; ++x)
        if (sees_tile(held[x], tile)) backward_keys(w, held[x], held[x].tile, keys);
}

}  // namespace clearhead::ISA
