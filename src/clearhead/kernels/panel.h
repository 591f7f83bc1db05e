/* Panels: rows of q, k, v in any type, brought into float32 in the layout that the products want.
 *
 *     queries in lanes:  QT[d][query]    a transposed panel, made once a block of queries
 *     keys, values:      X[key][d]       where they lie; copied only if not float32, or to pad or to clean them
 */
#pragma once
#include <string.h>

#include <utility> /* integer_sequence: a type, no code */

#include "call.h"
#include "vector.h"

namespace clearhead::ISA {

struct bfloat16 {
    uint16_t bits;
};
#if defined(__aarch64__)
typedef __fp16 float16; /* GCC 12 has no other in C++ there */
#else
typedef _Float16 float16;
#endif

typedef uint16_t half_bits __attribute__((vector_size(2 * W), aligned(2), may_alias));
typedef uint32_t word_bits __attribute__((vector_size(4 * W), may_alias));
typedef float16 half_vec __attribute__((vector_size(2 * W), aligned(2), may_alias));

inline float widen(float x) { return x; }
inline float widen(float16 x) { return (float)x; }
inline float widen(bfloat16 x) {
    uint32_t word = (uint32_t)x.bits << 16;
    float y;
    memcpy(&y, &word, 4);
    return y;
}

inline vec load(const bfloat16* p) { /* by intrinsics, as GCC 12 would go by halves */
#if defined(__AVX512F__)
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16);
#elif defined(__AVX2__)
    return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16);
#else
    word_bits words = __builtin_convertvector(*reinterpret_cast<const half_bits*>(p), word_bits) << 16;
    return reinterpret_cast<vec&>(words);
#endif
}
inline vec load(const float16* p) { /* likewise, lane by lane */
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    return __builtin_convertvector(*reinterpret_cast<const half_vec*>(p), vec);
#endif
}

inline void store(bfloat16* p, vec x) {
#if defined(__AVX512BF16__)
    __m256bh half = _mm512_cvtneps_pbh((__m512)x);
    memcpy(p, &half, sizeof(half));
#else
    word_bits words = reinterpret_cast<word_bits&>(x);
    word_bits even = (words >> 16) & 1; /* to the nearest, ties to even */
    word_bits rounded = (words + 0x7fff + even) >> 16;
    word_bits quiet = (words >> 16) | 0x40; /* rounding must not carry a NaN into infinity */
    words = x == x ? rounded : quiet;
    *reinterpret_cast<half_bits*>(p) = __builtin_convertvector(words, half_bits);
#endif
}
inline void store(float16* p, vec x) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
    *reinterpret_cast<half_vec*>(p) = __builtin_convertvector(x, half_vec);
#endif
}

/* The first n lanes, 0 in the others; nothing beyond them is read or written. */
template <class T>
inline vec load_part(const T* p, int64_t n) {
    if (n >= W) return load(p);
    T part[W] = {};
    memcpy(part, p, n * sizeof(T));
    return load(part);
}
template <class T>
inline void store_part(T* p, vec x, int64_t n) {
    if (n >= W) return store(p, x);
    T part[W];
    store(part, x);
    memcpy(p, part, n * sizeof(T));
}

/* Turns W vectors, rows, into columns: log2(W) rounds, in each of which blocks of `half` change places. */
template <int half, int... lane>
inline void exchange(vec* rows, std::integer_sequence<int, lane...>) {
    for (int i = 0; i < W; ++i) {
        if (i & half) continue;
        vec a = rows[i], b = rows[i + half];
        rows[i] = __builtin_shufflevector(a, b, (lane & half ? W + lane - half : lane)...);
        rows[i + half] = __builtin_shufflevector(a, b, (lane & half ? W + lane : lane + half)...);
    }
}
template <int half>
inline void exchange(vec* rows) {
    exchange<half>(rows, std::make_integer_sequence<int, W>());
}
inline void transpose(vec* rows) {
    exchange<1>(rows);
    exchange<2>(rows);
    if constexpr (W >= 8) exchange<4>(rows);
    if constexpr (W >= 16) exchange<8>(rows);
}

/* Of each of W vectors the sum of its lanes, in the lane of its number. */
inline vec sums_of_lanes(vec* rows) {
    transpose(rows);
    for (int step = W / 2; step; step /= 2)
        for (int x = 0; x < step; ++x) rows[x] += rows[x + step];
    return rows[0];
}

/* panel[d * width + lane] = row(lane)[d] for W rows of D numbers; a null row is 0. */
template <class T>
inline void pack(const T* const* rows, int64_t D, float* panel, int64_t width) {
    for (int64_t d = 0; d < D; d += W) {
        int64_t n = D - d < W ? D - d : W;
        vec square[W];
        for (int i = 0; i < W; ++i) square[i] = rows[i] ? load_part(rows[i] + d, n) : vec{};
        transpose(square);
        for (int64_t x = 0; x < n; ++x) store(panel + (d + x) * width, square[x]);
    }
}

/* row(lane)[d] = panel[d * width + lane] * factor[lane]; null rows are left out. */
template <class T>
inline void unpack(const float* panel, int64_t width, vec factor, T* const* rows, int64_t D) {
    for (int64_t d = 0; d < D; d += W) {
        int64_t n = D - d < W ? D - d : W;
        vec square[W];
        for (int64_t x = 0; x < W; ++x) square[x] = x < n ? load(panel + (d + x) * width) * factor : vec{};
        transpose(square);
        for (int i = 0; i < W; ++i)
            if (rows[i]) store_part(rows[i] + d, square[i], n);
    }
}

inline vec finite_or_zero(vec x) { return abs(x) < __builtin_inff() ? x : vec{}; }

/* Rows as float32: where they lie if they can be used there, else a copy. */
struct Rows {
    const float* at;
    int64_t stride;
};

/* Copies n rows of D numbers into rows of `wide`, up to `high` rows, 0 where there is nothing; clean: 0 for NaN, Inf.
 */
template <class T>
inline Rows copy(const T* from, int64_t stride, int64_t n, int64_t D, float* to, int64_t high, int64_t wide,
                 bool clean) {
    for (int64_t j = 0; j < high; ++j)
        for (int64_t d = 0; d < wide; d += W) {
            vec x = j < n && d < D ? load_part(from + j * stride + d, D - d) : vec{};
            store_part(to + j * wide + d, clean ? finite_or_zero(x) : x, wide - d);
        }
    return {to, wide};
}

}  // namespace clearhead::ISA
