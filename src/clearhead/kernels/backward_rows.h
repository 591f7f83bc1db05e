/* What the backward needs of whole rows, before and after its tiles: delta, the sinks' gradient, zeros, rounding.
 *
 *     delta[i] = sum of dout out - dlse        what the softmax's normalisation takes from every dS of the row
 */
#pragma once
#include "forward.h"

namespace clearhead::ISA {

constexpr int64_t SLICE = 512; /* rows that a task takes of such work */

inline int64_t slices(int64_t rows) { return (rows + SLICE - 1) / SLICE; }

/* Calls what(b, h, first, count) on all rows of all heads, a slice at a time. */
template <class What>
inline void each_slice(const Call& c, int64_t heads, int64_t rows, What what) {
    int64_t n = slices(rows);
    parallel(c.threads, c.B * heads * n, [&](int64_t t) {
        int64_t first = t % n * SLICE;
        what(t / n / heads, t / n % heads, first, least(SLICE, rows - first));
    });
}

inline float sum_of(vec x) {
    float sum = 0;
    for (int i = 0; i < W; ++i) sum += x[i];
    return sum;
}

/* A tensor from some row on. */
template <class T>
inline Tensor from_row(Tensor x, int64_t row) {
    x.data = static_cast<T*>(x.data) + row * x.row;
    return x;
}

template <class T>
inline void find_delta(const Call& c, int64_t b, int64_t h, int64_t first, int64_t count, float* delta) {
    for (int64_t i = first; i < first + count; ++i) {
        const T *dout = row_at<T>(c.dout, b, h, i), *out = row_at<T>(c.out, b, h, i);
        vec sum = {};
        for (int64_t d = 0; d < c.Dv; d += W)
            sum = fma(load_part(dout + d, c.Dv - d), load_part(out + d, c.Dv - d), sum);
        int64_t r = (b * c.H + h) * c.Tq + i;
        delta[r] = sum_of(sum) - (c.dlse ? c.dlse[r] : 0.0f);
    }
}

/* A sink is a key whose value is 0: dP is 0, and dS = -P delta. */
inline void find_sinks(const Call& c, const float* delta) {
    parallel(c.threads, c.H, [&](int64_t h) {
        double sum = 0;
        for (int64_t b = 0; b < c.B; ++b)
            for (int64_t r = (b * c.H + h) * c.Tq; r < (b * c.H + h + 1) * c.Tq; ++r)
                if (c.top[r] != -INF) sum -= __builtin_expf(c.sinks[h] - c.top[r]) / c.sum[r] * delta[r];
        c.dsinks[h] = (float)sum;
    });
}

/* to += sums * factor, n rows of D numbers; `sums` has rows of `width`. */
inline void add_rows(const float* sums, int64_t width, float factor, float* to, int64_t stride, int64_t n, int64_t D) {
    for (int64_t j = 0; j < n; ++j)
        for (int64_t d = 0; d < D; d += W) {
            float* o = to + j * stride + d;
            vec sum = fma(load(sums + j * width + d), broadcast(factor), load_part(o, D - d));
            store_part(o, sum, D - d);
        }
}

/* Rows of float32, rounded to the call's type. */
template <class T>
inline void round_rows(const Tensor& from, const Tensor& to, int64_t b, int64_t h, int64_t first, int64_t count,
                       int64_t D) {
    for (int64_t j = first; j < first + count; ++j) {
        const float* x = row_at<float>(from, b, h, j);
        T* y = const_cast<T*>(row_at<T>(to, b, h, j));
        for (int64_t d = 0; d < D; d += W) store_part(y + d, load_part(x + d, D - d), D - d);
    }
}

}  // namespace clearhead::ISA
