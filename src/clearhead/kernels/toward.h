/* What each query puts on one key that is named for it, for several roles: toward[r, b, h, i] = w[i, targets[r, b, i]].
 *
 * One product of a query and a key each, D in the lanes; those of W queries are summed across the lanes at once. Heads
 * of a group read the same keys one after the other. No bias is added.
 */
#pragma once
#include "weights.h"

namespace clearhead::ISA {

constexpr int64_t TOWARD_QUERIES = 256; /* of a task */

/* q . k of W queries of a head, each with its own key. */
template <class T>
inline vec products(const Call& c, int64_t b, int64_t h, int64_t i, int64_t count, const int32_t* targets) {
    vec sums[W];
    for (int x = 0; x < W; ++x) {
        const int64_t at = i + least(x, count - 1);
        const T *q = row_at<T>(c.q, b, h, at), *k = row_at<T>(c.k, b, h / (c.H / c.K), targets[at]);
        sums[x] = vec{};
        int64_t d = 0;
        for (; d + W <= c.D; d += W) sums[x] = fma(load(q + d), load(k + d), sums[x]);
        if (d < c.D) sums[x] = fma(load_part(q + d, c.D - d), load_part(k + d, c.D - d), sums[x]);
    }
    return sums_of_lanes(sums);
}

template <class T>
inline void toward_some(const Call& c, int64_t b, int64_t h, int64_t role, int64_t i, int64_t count) {
    const int32_t* targets = c.targets + (role * c.B + b) * c.Tq;
    const int64_t row = (b * c.H + h) * c.Tq + i;
    vec s = products<T>(c, b, h, i, count, targets) * c.scale;
    if (c.softcap != 0.0f) s = tanh(s / c.softcap) * c.softcap;
    vec top = load_part(c.probe.max_score + row, count), base = top == -INF ? vec{} : top;
    vec w = exp2((s - base) * LOG2E) * load_part(c.probe.peak + row, count);
    store_part(c.toward + role * c.B * c.H * c.Tq + row, w, count);
}

template <class T>
inline void toward_of(const Call& c) {
    const int64_t some = (c.Tq + TOWARD_QUERIES - 1) / TOWARD_QUERIES;
    parallel(c.threads, c.B * some, [&](int64_t t) {
        const int64_t b = t / some, first = t % some * TOWARD_QUERIES, stop = least(first + TOWARD_QUERIES, c.Tq);
        for (int64_t i = first; i < stop; i += W)
            for (int64_t h = 0; h < c.H; ++h)
                for (int64_t role = 0; role < c.roles; ++role) toward_some<T>(c, b, h, role, i, least(W, stop - i));
    });
}

inline void toward(const Call& c) {
    if (c.type == FLOAT32) toward_of<float>(c);
    if (c.type == BFLOAT16) toward_of<bfloat16>(c);
    if (c.type == FLOAT16) toward_of<float16>(c);
}

}  // namespace clearhead::ISA
