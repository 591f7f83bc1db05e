/* Linear: y = x Wᵀ + b. Few rows of x are bound by how fast the weights can be read, many by how fast one multiplies.
 *
 * A product of matrices wants many rows, to use each weight that it reads many times: many.h. A decoder's next token
 * has one. For it the lanes of the vectors walk along the rows of the weights, as they lie in memory, and what they
 * sum is turned into W numbers of y. All rows of x go over these weights while they are in the cache.
 */
#pragma once
#include "many.h"
#include "many_amx.h"

namespace clearhead::ISA {

constexpr int64_t FEW_ROWS = 8;
constexpr int64_t BYTES_OF_TASK = 32 * 1024; /* of weights */

constexpr int AHEAD = 8 * 1024; /* bytes: the next rows but one are asked for while these are summed */

/* W numbers of y, or the first n, of one row of x: four rows of the weights at a time, two vectors of each. */
template <class T>
inline vec few(const float* x, const T* weight, int64_t in, int64_t n) {
    vec sums[W] = {};
    int64_t whole = in / (2 * W) * 2 * W, fours = n / 4 * 4;
    for (int64_t r = 0; r < fours; r += 4) {
        const T* rows = weight + r * in;
        vec more[4] = {};
        for (int64_t i = 0; i < whole; i += 2 * W) {
            vec a = load(x + i), b = load(x + i + W);
#pragma GCC unroll 4
            for (int m = 0; m < 4; ++m) {
                const T* row = rows + m * in + i;
                __builtin_prefetch(reinterpret_cast<const char*>(row) + AHEAD);
                sums[r + m] = fma(load(row), a, sums[r + m]);
                more[m] = fma(load(row + W), b, more[m]);
            }
        }
        for (int m = 0; m < 4; ++m) sums[r + m] += more[m];
    }
    for (int64_t r = 0; r < n; ++r)
        for (int64_t i = r < fours ? whole : 0; i < in; i += W)
            sums[r] = fma(load_part(weight + r * in + i, in - i), load_part(x + i, in - i), sums[r]);
    return sums_of_lanes(sums);
}

template <class T>
inline void few_of(const Layer& c) {
    const T *x = static_cast<const T*>(c.x), *weight = static_cast<const T*>(c.weight),
            *bias = static_cast<const T*>(c.bias);
    T* y = static_cast<T*>(c.y);
    float* wide = static_cast<float*>(clearhead_common((size_t)(c.rows * c.in) * 4)); /* x as float32 */
    for (int64_t r = 0; r < c.rows; ++r)
        for (int64_t i = 0; i < c.in; i += W)
            store_part(wide + r * c.in + i, load_part(x + r * c.x_row + i, c.in - i), c.in - i);
    int64_t least = BYTES_OF_TASK / (c.in * (int64_t)sizeof(T)),
            step = (c.out / c.threads > least ? c.out / c.threads : least);
    step = (step / W + 1) * W;
    parallel(c.threads, (c.out + step - 1) / step, [&](int64_t task) {
        int64_t end = (task + 1) * step < c.out ? (task + 1) * step : c.out;
        for (int64_t o = task * step; o < end; o += W) {
            int64_t n = end - o < W ? end - o : W;
            vec b = bias ? load_part(bias + o, n) : vec{};
            for (int64_t r = 0; r < c.rows; ++r)
                store_part(y + r * c.y_row + o, few(wide + r * c.in, weight + o * c.in, c.in, n) + b, n);
        }
    });
}

template <class T>
inline void linear_of(const Layer& c) {
    if (c.rows > FEW_ROWS) many_of<T>(c);
    else few_of<T>(c);
}

inline void linear(const Layer& c) {
#if defined(__AMX_BF16__)
    if (c.type == FLOAT32 && c.rows > FEW_ROWS) return many_by_tiles(c);
#endif
    if (c.type == BFLOAT16) return linear_of<bfloat16>(c);
    if (c.type == FLOAT16) return linear_of<float16>(c);
    linear_of<float>(c);
}

}  // namespace clearhead::ISA
