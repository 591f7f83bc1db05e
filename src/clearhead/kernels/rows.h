/* Rows: what needs one pass over a token's numbers and no other's: norms, gates, and turning by a position. */
#pragma once
#include "exponential.h"
#include "layer.h"
#include "panel.h"
#include "parallel.h"

namespace clearhead::ISA {

constexpr int64_t WORTH_A_TASK = 16 * 1024; /* numbers */

/* One task for so many rows of `width` that waking a thread for it pays. */
template <class Row>
inline void each_row(int threads, int64_t rows, int64_t width, Row row) {
    int64_t step = WORTH_A_TASK / (width + 1) + 1;
    parallel(threads, (rows + step - 1) / step, [&](int64_t task) {
        int64_t end = (task + 1) * step < rows ? (task + 1) * step : rows;
        for (int64_t r = task * step; r < end; ++r) row(r);
    });
}

inline float sum_of_lanes(vec x) {
    float sum = 0;
    for (int i = 0; i < W; ++i) sum += x[i];
    return sum;
}

/* y = x / sqrt(mean(x^2) + eps) * (offset + weight) */
template <class T>
inline void rms_norm_of(const Layer& c) {
    const T* weight = static_cast<const T*>(c.weight);
    each_row(c.threads, c.rows, c.in, [&](int64_t r) {
        const T* x = static_cast<const T*>(c.x) + r * c.x_row;
        T* y = static_cast<T*>(c.y) + r * c.y_row;
        vec squares[4] = {}; /* so that no sum waits for the one before */
        for (int64_t i = 0; i < c.in; i += 4 * W)
#pragma GCC unroll 4
            for (int64_t n = 0; n < 4; ++n) {
                if (i + n * W >= c.in) break;
                vec some = load_part(x + i + n * W, c.in - i - n * W);
                squares[n] = fma(some, some, squares[n]);
            }
        float sum = sum_of_lanes(squares[0] + squares[1] + (squares[2] + squares[3]));
        vec factor = broadcast(1.0f / __builtin_sqrtf(sum / (float)c.in + c.eps));
        for (int64_t i = 0; i < c.in; i += W) {
            vec w = load_part(weight + i, c.in - i) + c.offset;
            store_part(y + i, load_part(x + i, c.in - i) * factor * w, c.in - i);
        }
    });
}

/* x sigmoid(z): SiLU has z = x, GELU by tanh is sigmoid too, and CLIP's is meant to be. */
template <int gate>
inline vec gated(vec x) {
    vec z = x;
    if constexpr (gate == GELU_TANH) z = 1.5957691216057308f * fma(0.044715f * x * x, x, x);
    if constexpr (gate == QUICK_GELU) z = 1.702f * x;
    return x / (1.0f + exp(-max(z, broadcast(-1e30f)))); /* as exp(inf) is not known everywhere */
}

/* y = f(gate) * up of rows that hold the gate's `out` numbers, then up's. */
template <class T, int gate>
inline void gate_of(const Layer& c) {
    each_row(c.threads, c.rows, c.out, [&](int64_t r) {
        const T *x = static_cast<const T*>(c.x) + r * c.x_row, *up = x + c.out;
        T* y = static_cast<T*>(c.y) + r * c.y_row;
        for (int64_t i = 0; i < c.out; i += W)
            store_part(y + i, gated<gate>(load_part(x + i, c.out - i)) * load_part(up + i, c.out - i), c.out - i);
    });
}

/* (a, b) becomes (a cos - b sin, b cos + a sin), a the first R numbers of a head and b the next; the rest stays. */
template <class T>
inline void turn_of(const Turn& c) {
    each_row(c.threads, c.B * c.T * c.heads, c.D, [&](int64_t row) {
        int64_t h = row % c.heads, t = row / c.heads % c.T, b = row / c.heads / c.T;
        const T* x = static_cast<const T*>(c.x.data) + b * c.x.batch + h * c.x.head + t * c.x.row;
        T* y = static_cast<T*>(c.y.data) + b * c.y.batch + h * c.y.head + t * c.y.row;
        const float* cos = c.cos + b * c.angles_batch + t * c.angles_row;
        const float* sin = c.sin + b * c.angles_batch + t * c.angles_row;
        for (int64_t i = 0; i < c.R; i += W) {
            int64_t n = c.R - i;
            vec first = load_part(x + i, n), second = load_part(x + c.R + i, n);
            vec cosine = load_part(cos + i, n), sine = load_part(sin + i, n);
            store_part(y + i, first * cosine - second * sine, n);
            store_part(y + c.R + i, fma(first, sine, second * cosine), n);
        }
        if (c.D > 2 * c.R) memcpy(y + 2 * c.R, x + 2 * c.R, (size_t)(c.D - 2 * c.R) * sizeof(T));
    });
}

inline void rms_norm(const Layer& c) {
    if (c.type == BFLOAT16) return rms_norm_of<bfloat16>(c);
    if (c.type == FLOAT16) return rms_norm_of<float16>(c);
    rms_norm_of<float>(c);
}

template <class T>
inline void gate_of(const Layer& c) {
    if (c.gate == GELU_TANH) return gate_of<T, GELU_TANH>(c);
    if (c.gate == QUICK_GELU) return gate_of<T, QUICK_GELU>(c);
    gate_of<T, SILU>(c);
}
inline void gate(const Layer& c) {
    if (c.type == BFLOAT16) return gate_of<bfloat16>(c);
    if (c.type == FLOAT16) return gate_of<float16>(c);
    gate_of<float>(c);
}

inline void turn(const Turn& c) {
    if (c.type == BFLOAT16) return turn_of<bfloat16>(c);
    if (c.type == FLOAT16) return turn_of<float16>(c);
    turn_of<float>(c);
}

}  // namespace clearhead::ISA
