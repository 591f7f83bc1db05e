/* The running softmax of a block, one vector of queries at a time, and the statistics in the same pass.
 *
 * Of each query it holds, relative to exp(m), where m is a score that its highest one is not far above:
 *
 *     l       the sum of all weights
 *
 * or, for the statistics, the highest score, its key, and of all others (that nothing cancels, so that an entropy
 * near 0 keeps its digits):
 *
 *     rest    the sum of their weights
 *     spread  sum of w (m - s)
 *     moment  sum of w |i - j|
 *
 * When m grows, all of it shrinks by exp(old m - new m), the output too.
 *
 * Scores come in units of `unit`: products that were not scaled yet. A weight is exp2((s - m) unit log2(e)): first
 * subtracted, then multiplied, which is exact among huge scores too.
 */
#pragma once
#include <type_traits> /* types alone, no code */

#include "dropout.h"
#include "exponential.h"
#include "walk.h"

namespace clearhead::ISA {

/* The whole sum of a block's rows, relative to exp(m), m the highest score; spread and moment are sums over all keys.
 */
struct Softmax {
    float m[Q], l[Q], shrink[Q];
    float rest[Q], spread[Q], moment[Q];
    int32_t at[Q];
};

inline void begin(Softmax& state) {
    for (int i = 0; i < Q; ++i) {
        state.m[i] = -INF;
        state.l[i] = state.shrink[i] = state.rest[i] = state.spread[i] = state.moment[i] = 0;
        state.at[i] = -1;
    }
}

/* The sum as it grows. */
struct Running {
    float unit;
    float m[Q], l[Q];
    float top[Q], rest[Q], spread[Q], moment[Q];
    int32_t at[Q], position[Q];
    int32_t first[N], last[N]; /* positions of each vector of queries */
    int32_t taken[N];          /* how many tiles each has taken in */
};

inline void begin(Running& run, const Block& block, float unit) {
    run.unit = unit;
    for (int n = 0; n < N; ++n) run.first[n] = INT32_MAX, run.last[n] = INT32_MIN, run.taken[n] = 0;
    for (int i = 0; i < Q; ++i) {
        run.m[i] = run.top[i] = -INF;
        run.l[i] = run.rest[i] = run.spread[i] = run.moment[i] = 0;
        run.at[i] = -1;
        run.position[i] = (int32_t)block.position[i];
        if (run.position[i] < run.first[i / W]) run.first[i / W] = run.position[i];
        if (run.position[i] > run.last[i / W]) run.last[i / W] = run.position[i];
    }
}

constexpr int CHUNK = 16; /* keys between two looks at what else there is to do */

/* The highest of the scores of each chunk and of all; NaN does not count. */
struct Highest {
    vec chunk[KEYS / CHUNK], all;
};

inline Highest highest(const float* s, Span span) {
    Highest high;
    high.all = broadcast(-INF);
    for (int64_t j = span.start, i = 0; j < span.stop; j += CHUNK, ++i) {
        vec x = broadcast(-INF), y = x; /* two chains, for the latency of max */
        int64_t stop = least(j + CHUNK, span.stop);
        for (int64_t k = j; k < stop; k += 2) {
            x = max(load(s + k * Q), x);
            y = max(load(s + (k + 1) * Q), y);
        }
        high.chunk[i] = max(x, y);
        high.all = max(high.chunk[i], high.all);
    }
    return high;
}

/* The first key with score `top`, in the lanes that look for it. */
inline ivec find(const Highest& high, const float* s, Span span, int64_t start, vec top, ivec looking, ivec at) {
    for (int64_t j = span.start, i = 0; j < span.stop && any(looking); j += CHUNK, ++i) {
        ivec here = looking & (high.chunk[i] == top);
        if (!any(here)) continue;
        for (int64_t k = least(j + CHUNK, span.stop) - 1; k >= j; --k) {
            ivec it = here & (load(s + k * Q) == top);
            at = select(it, broadcast((int32_t)(start + k)), at);
        }
        looking &= ~here;
    }
    return at;
}

/* What the weights of a vector of queries sum up to over the chunks of a span. */
struct Gathered {
    vec even, odd, spread, moment;
};

/* Sums over the keys [j, stop) of a tile, weights put where they are wanted.
 *
 * away: no query of the vector stands among the keys, so the moment is summed as sum w j, one instruction less.
 * peaks: some query has its peak there, which is left out. What the one decides hangs on positions alone, and the other
 * changes nothing for the other queries: what a query gets never hangs, by a bit, on what its neighbours see. */
template <bool probe, bool drop, bool away, bool peaks, class Weights>
__attribute__((always_inline)) inline void weigh(Gathered& sums, const Tile& tile, int n, int64_t j, int64_t stop,
                                                 const float* s, vec base, float factor, ivec at, vec position,
                                                 Dropout* dropout, Weights& weights) {
    static constexpr float count[KEYS] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                          16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                          32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
                                          48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
#pragma GCC unroll 4
    for (; j < stop; j += 2) {
        vec w[2];
#pragma GCC unroll 2
        for (int x = 0; x < 2; ++x) {
            vec below = (load(s + (j + x) * Q) - base) * factor;
            if constexpr (probe) below = max(broadcast(-200.0f), below); /* 0 times it is to be 0 */
            w[x] = exp2<Weights::DEGREE>(below);
            vec other = w[x];
            if constexpr (probe && peaks) other = at != (int32_t)(tile.start + j + x) ? other : vec{};
            if constexpr (probe) {
                vec way = away ? broadcast(count[j + x]) : abs(position - (float)(j + x));
                sums.spread = fma(other, below, sums.spread);
                sums.moment = fma(other, way, sums.moment);
            }
            if (x) sums.odd += other;
            else sums.even += other;
        }
        if constexpr (drop) {
            w[0] *= dropout->keep(tile.start + j);
            w[1] *= dropout->keep(tile.start + j + 1);
        }
        weights.put(j, n, w[0], w[1]);
    }
}

/* Takes in the scores of vector n over a span of keys, and hands on their weights, relative to exp(m).
 *
 *     weights.put(j, n, w0, w1)   those of keys j and j + 1
 *     weights.shrink(n, factor)   before: what the output so far is to be multiplied by
 *     Weights::DEGREE, STALE      exp2's degree; whether m may lag behind the highest score. Then a tile's weights are
 *                                 taken relative to m as it is, without a look at the scores first, and only if they
 *                                 come to more than all before them (a weight that dominates is to be exactly 1 where
 *                                 weights are rounded) are its scores made again, and m raised.
 */
template <bool probe, bool drop, class Weights>
inline void take_in(Running& run, const Block& block, const Tile& tile, int n, Span span, const float* S,
                    Weights& weights) {
    const float* s = S + n * W;
    const float factor = run.unit * LOG2E;
    if constexpr (Weights::STALE && !probe && !drop) {
        vec m = load(run.m + n * W);
        /* The first tiles often outweigh those before. */
        if (weights.again && run.taken[n]++ > 2 && !any(m == -INF)) {
            Gathered sums = {};
            weigh<false, false, true, false>(sums, tile, n, span.start, span.stop, s, m, factor, ivec{}, vec{}, nullptr,
                                             weights);
            vec sum = sums.even + sums.odd, most = load(run.l + n * W);
            most = most < 0x1p20f ? most : broadcast(0x1p20f);
            if (!any(~(sum <= most))) {
                store(run.l + n * W, load(run.l + n * W) + sum);
                return;
            }
            weights.again->scores(n);
        }
    }
    Highest high = highest(s, span);
    vec old = load(run.m + n * W);
    vec m = max(high.all, old);
    vec base = m == -INF ? vec{} : m;
    vec shrink = exp2((old - base) * factor);
    store(run.m + n * W, m);
    weights.shrink(n, shrink);

    [[maybe_unused]] Dropout dropout(block, n);
    Gathered sums = {};
    if constexpr (!probe) {
        for (int64_t j = span.start; j < span.stop; j += CHUNK) {
            weigh<false, drop, true, false>(sums, tile, n, j, least(j + CHUNK, span.stop), s, base, factor, ivec{},
                                            vec{}, &dropout, weights);
        }
        store(run.l + n * W, fma(load(run.l + n * W), shrink, sums.even + sums.odd));
        return;
    }
    vec top = load(run.top + n * W);
    vec rest = load(run.rest + n * W), spread = load(run.spread + n * W), moment = load(run.moment + n * W);
    ivec at = load(run.at + n * W), where = load(run.position + n * W);
    vec fall = -max(broadcast(-200.0f), (old - m) * factor); /* infinite times a shrink of 0 would be NaN */
    fall = old > -INF ? fall : vec{};
    /* shrink * fall first: among huge scores fall * rest would overflow where shrink makes it 0. */
    spread = fma(shrink, spread, shrink * fall * rest);
    rest *= shrink;
    moment *= shrink;
    ivec higher = high.all > top;
    bool moves = any(higher);
    if (moves) { /* what was the peak joins the others */
        vec below = max(broadcast(-200.0f), (top - base) * factor);
        vec w = higher & (top > -INF) ? exp2(below) : vec{};
        rest += w;
        spread = fma(w, -below, spread);
        moment = fma(w, abs(to_float(where - at)), moment);
        top = higher ? high.all : top;
        at = find(high, s, span, tile.start, top, higher, at);
        store(run.top + n * W, top);
        store(run.at + n * W, at);
    }
    bool after = run.first[n] >= tile.stop - 1, before = run.last[n] <= tile.start;
    vec position = to_float(where - (int32_t)tile.start);
    auto gather = [&](int64_t j, int64_t stop, auto away, auto peaks) {
        weigh<true, drop, decltype(away)::value, decltype(peaks)::value>(sums, tile, n, j, stop, s, base, factor, at,
                                                                         position, &dropout, weights);
    };
    std::true_type yes;
    std::false_type no;
    for (int64_t j = span.start; j < span.stop; j += CHUNK) {
        int64_t stop = least(j + CHUNK, span.stop);
        ivec here = higher & (at >= (int32_t)(tile.start + j)) & (at < (int32_t)(tile.start + stop));
        bool peaks = moves && any(here);
        if (after || before) peaks ? gather(j, stop, yes, yes) : gather(j, stop, yes, no);
        else peaks ? gather(j, stop, no, yes) : gather(j, stop, no, no);
    }
    vec others = sums.even + sums.odd, way = fma(position, others, -sums.moment);
    store(run.rest + n * W, rest + others);
    store(run.spread + n * W, spread - sums.spread);
    store(run.moment + n * W, moment + (after ? way : before ? -way : sums.moment));
}

/* From the running sum to the whole one. Returns in state.shrink what an output relative to exp(run.m) is worth. */
template <bool probe>
inline void settle(const Running& run, Softmax& state) {
    const float factor = run.unit * LOG2E;
    for (int i = 0; i < Q; i += W) {
        vec m = load(run.m + i), shrink = broadcast(1.0f), l = load(run.l + i);
        if constexpr (probe) {
            vec top = load(run.top + i), rest = load(run.rest + i);
            ivec some = top > -INF;
            vec fall = some ? (top - m) * factor : vec{};
            shrink = exp2(-fall);
            vec peak = some ? 1.0f + (top - top) : vec{}; /* NaN if the highest is infinite, as its weight is */
            vec way = abs(to_float(load(run.position + i) - load(run.at + i)));
            store(state.spread + i, shrink * fma(fall, rest, load(run.spread + i)) * LN2);
            rest *= shrink;
            store(state.rest + i, rest);
            store(state.moment + i, fma(shrink, load(run.moment + i), some ? way : vec{}));
            store(state.at + i, load(run.at + i));
            l = peak + rest;
            m = top;
        }
        store(state.m + i, m == -INF ? m : m * run.unit);
        store(state.l + i, l);
        store(state.shrink + i, shrink);
    }
}

/* Adds to a block's sums those over other keys. Leaves in both shrinks what the outputs, as they are, are to be
 * multiplied by to be relative to the new exp(m). */
inline void join(Softmax& total, Softmax& more) {
    for (int i = 0; i < Q; i += W) {
        vec m0 = load(total.m + i), m1 = load(more.m + i);
        ivec second = m1 > m0;
        vec m = second ? m1 : m0, base = m == -INF ? vec{} : m;
        vec factor0 = exp(m0 - base), factor1 = exp(m1 - base);
        vec fall0 = m0 > -INF ? base - m0 : vec{}, fall1 = m1 > -INF ? base - m1 : vec{};
        /* what was a peak, and is none any more, joins the others */
        vec rest0 = load(total.rest + i) + (second ? vec{} + 1.0f : vec{});
        vec rest1 = load(more.rest + i) + (second ? vec{} : vec{} + 1.0f);
        vec all0 = load(total.rest + i) + 1.0f, all1 = load(more.rest + i) + 1.0f;
        store(total.spread + i, factor0 * load(total.spread + i) + factor0 * fall0 * all0 +
                                    factor1 * load(more.spread + i) + factor1 * fall1 * all1);
        store(total.rest + i, factor0 * rest0 + factor1 * rest1);
        store(total.moment + i, factor0 * load(total.moment + i) + factor1 * load(more.moment + i));
        store(total.at + i, select(second, load(more.at + i), load(total.at + i)));
        store(total.l + i, factor0 * load(total.l + i) + factor1 * load(more.l + i));
        store(total.m + i, m);
        store(total.shrink + i, factor0 * load(total.shrink + i));
        store(more.shrink + i, factor1 * load(more.shrink + i));
    }
}

/* Joins the sinks, writes the rows of the block: lse, top, sum, statistics. Returns in state.shrink what an output
 * relative to exp(m) is to be multiplied by. */
inline void end(Softmax& state, const Block& block) {
    const Call& c = *block.c;
    float lse[Q], top[Q], entropy[Q], peak[Q], distance[Q], highest[Q];
    for (int i = 0; i < block.vectors * W; i += W) {
        vec m = load(state.m + i), l = load(state.l + i), high = m, sink = broadcast(-INF);
        if (c.sinks) {
            for (int x = 0; x < W; ++x) sink[x] = c.sinks[block.head[i + x]];
            high = sink > m ? sink : m;
            vec base = high == -INF ? vec{} : high;
            l = fma(l, exp(m - base), exp(sink - base));
        }
        vec base = high == -INF ? vec{} : high;
        ivec empty = l == 0.0f;
        store(state.shrink + i, empty ? vec{} : exp(m - base) / l);
        store(lse + i, empty ? broadcast(-INF) : base + log(l));
        store(top + i, high);
        if (c.probe.peak) {
            ivec some = (m != -INF) | (l != l);                 /* what is NaN shows */
            vec rest = load(state.rest + i), gap = log1p(rest); /* lse - m */
            if (c.sinks) {
                vec x = sink - m, more = x > gap ? x : gap, less = x > gap ? gap : x;
                gap = some ? more + log1p(exp(less - more)) : gap;
            }
            vec share = some ? exp(-gap) : vec{};
            store(peak + i, share);
            store(entropy + i, some ? fma((1 + rest) * share, gap, load(state.spread + i) * share) : vec{});
            store(distance + i, some ? load(state.moment + i) / (1 + rest) : vec{});
            store(highest + i, l == l ? m : l); /* a NaN among the scores shows */
        }
        store(state.l + i, empty ? broadcast(1.0f) : l);
    }
    for (int64_t lane = 0; lane < block.count; ++lane) {
        int64_t r = block.row((int)lane);
        if (c.lse) c.lse[r] = lse[lane];
        if (c.top) c.top[r] = top[lane];
        if (c.sum) c.sum[r] = state.l[lane];
        if (!c.probe.peak) continue;
        c.probe.peak[r] = peak[lane];
        c.probe.entropy[r] = entropy[lane];
        c.probe.distance[r] = distance[lane];
        c.probe.max_score[r] = highest[lane];
        c.probe.peak_at[r] = state.at[lane];
    }
}

}  // namespace clearhead::ISA
