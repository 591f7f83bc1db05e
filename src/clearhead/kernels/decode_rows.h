/* Rows of keys and values as decode reads them: two vectors a step, each row once for several queries.
 *
 *     bfloat16   |b0 b1|b2 b3|...      W words of two numbers: b0 b2 .. are the words shifted up,
 *                                      b1 b3 .. the words with their lower halves cleared
 *
 * so that widening costs one instruction a vector and no shuffle. Queries and outputs lie in the same order, even
 * numbers before odd ones in every step of STRIDE; `place` says where. The other types stay in their own order.
 */
#pragma once
#include "panel.h"
#include "walk.h"

namespace clearhead::ISA {

constexpr int STRIDE = 2 * W; /* numbers in a step */
constexpr int STRETCH = 32;   /* keys that are worked on at a time */

struct Pair {
    vec a, b;
};

template <class T>
inline Pair load_pair(const T* p) {
    return {load(p), load(p + W)};
}
inline Pair load_pair(const bfloat16* p) {
    word_bits words;
    memcpy(&words, p, sizeof words);
    word_bits even = words << 16, odd = words & 0xffff0000u;
    return {reinterpret_cast<vec&>(even), reinterpret_cast<vec&>(odd)};
}

#if defined(__AVX512F__)
template <>
inline Pair load_pair(const float16* p) { /* GCC 12 converts them one by one */
    return {(vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)),
            (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(p + W)))};
}
#elif defined(__AVX2__)
template <>
inline Pair load_pair(const float16* p) {
    return {(vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + W)))};
}
#endif

/* The first n numbers of a step, 0 for the others; nothing beyond them is read. */
template <class T>
inline Pair load_pair(const T* p, int64_t n) {
    T part[STRIDE] = {};
    memcpy(part, p, n * sizeof(T));
    return load_pair(part);
}
#if defined(__AVX512F__)
template <>
inline Pair load_pair(const float* p, int64_t n) {
    uint32_t there = (1u << n) - 1; /* n < STRIDE = 32 */
    return {(vec)_mm512_maskz_loadu_ps((__mmask16)there, p),
            (vec)_mm512_maskz_loadu_ps((__mmask16)(there >> W), p + W)};
}
template <>
inline Pair load_pair(const bfloat16* p, int64_t n) {
    word_bits words = (word_bits)_mm512_maskz_loadu_epi16((1u << n) - 1, p);
    return load_pair(reinterpret_cast<const bfloat16*>(&words));
}
#endif

/* Where number d of a row lies in panels of queries and outputs. */
template <class T>
inline int64_t place(int64_t d) {
    if constexpr (__is_same(T, bfloat16)) return d / STRIDE * STRIDE + d % 2 * W + d % STRIDE / 2;
    return d;
}

/* Asks for what a step of a row reads; nothing comes of it where the row ends before. */
template <class T>
inline void fetch(const T* p) {
    for (int64_t byte = 0; byte < (int64_t)(STRIDE * sizeof(T)); byte += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(p) + byte);
}

/* One vector of the sums of W vectors, the sum of x[i] in lane i: log2(W) rounds, in each of which half as many are
 * left and every lane holds a part of another one. */
template <int half>
inline void fold(vec* x) {
    ivec own, other;
    for (int i = 0; i < W; ++i) {
        own[i] = i & half ? W + i : i;
        other[i] = i & half ? W + i - half : i + half;
    }
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
        vec a = x[i], b = x[i + half];
        x[i] = __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, other);
    }
}
inline vec fold(vec* x) {
    if constexpr (W >= 16) fold<8>(x);
    if constexpr (W >= 8) fold<4>(x);
    fold<2>(x);
    fold<1>(x);
    return x[0];
}

/* The highest and the sum of a vector's lanes, by halves. */
template <int half, class Join>
inline vec reduce(vec x, Join join) {
    ivec other;
    for (int i = 0; i < W; ++i) other[i] = i ^ half;
    x = join(x, __builtin_shuffle(x, other));
    if constexpr (half > 1) return reduce<half / 2>(x, join);
    return x;
}
inline float highest(vec x) {
    return reduce<W / 2>(x, [](vec a, vec b) { return max(a, b); })[0];
}
inline float sum(vec x) {
    return reduce<W / 2>(x, [](vec a, vec b) { return a + b; })[0];
}

/* Products of `rows` queries, each a panel's row, with W / rows keys: s[row * STRETCH + key]. Fetches their values. */
template <int rows, class T>
inline void score_keys(const float* const* q, const T* const* k, const T* const* v, int64_t D, float* s) {
    constexpr int keys = W / rows;
    vec sums[W] = {};
    auto step = [&](int64_t d, auto load_keys) __attribute__((always_inline)) {
        vec a[rows], b[rows];
        for (int r = 0; r < rows; ++r) a[r] = load(q[r] + d), b[r] = load(q[r] + d + W);
#pragma GCC unroll 16
        for (int j = 0; j < keys; ++j) {
            fetch(v[j] + d);
            Pair x = load_keys(k[j] + d);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) sums[r * keys + j] = fma(x.b, b[r], fma(x.a, a[r], sums[r * keys + j]));
        }
    };
    int64_t d = 0;
    for (; d + STRIDE <= D; d += STRIDE) step(d, [](const T* p) { return load_pair(p); });
    if (d < D) step(d, [n = D - d](const T* p) { return load_pair(p, n); });
    vec folded = fold(sums);
    for (int r = 0; r < rows; ++r) memcpy(s + r * STRETCH, reinterpret_cast<float*>(&folded) + r * keys, keys * 4);
}

/* o[row] += the sum of the values of `count` keys, weighed by w[row * STRETCH + key]: `pairs` steps of them, from
 * number d on. Fetches the same numbers of the keys that come next. */
template <int rows, int pairs, class T, class Load>
inline void add_steps(float* const* o, const T* const* v, const T* const* k, int64_t count, int64_t d, const float* w,
                      Load load_values) {
    vec sums[rows][2 * pairs];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int x = 0; x < 2 * pairs; ++x) sums[r][x] = load(o[r] + d + x * W);
    for (int64_t j = 0; j < count; ++j) {
        Pair x[pairs];
#pragma GCC unroll 2
        for (int p = 0; p < pairs; ++p) x[p] = load_values(v[j] + d + p * STRIDE), fetch(k[j] + d + p * STRIDE);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            vec weight = broadcast(w[r * STRETCH + j]);
#pragma GCC unroll 2
            for (int p = 0; p < pairs; ++p) {
                sums[r][2 * p] = fma(x[p].a, weight, sums[r][2 * p]);
                sums[r][2 * p + 1] = fma(x[p].b, weight, sums[r][2 * p + 1]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int x = 0; x < 2 * pairs; ++x) store(o[r] + d + x * W, sums[r][x]);
}

template <int rows, class T>
inline void add_values(float* const* o, const T* const* v, const T* const* k, int64_t count, int64_t Dv,
                       const float* w) {
    auto whole = [](const T* p) { return load_pair(p); };
    int64_t d = 0;
    for (; d + 2 * STRIDE <= Dv; d += 2 * STRIDE) add_steps<rows, 2>(o, v, k, count, d, w, whole);
    for (; d + STRIDE <= Dv; d += STRIDE) add_steps<rows, 1>(o, v, k, count, d, w, whole);
    if (d < Dv) add_steps<rows, 1>(o, v, k, count, d, w, [n = Dv - d](const T* p) { return load_pair(p, n); });
}

}  // namespace clearhead::ISA
