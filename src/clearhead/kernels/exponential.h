/* 2^x, e^x, tanh and logarithms on vectors.
 *
 *     2^x = 2^n * 2^r,  n whole,  r = x - n      2^r = 1 + r * slope(r), a minimax polynomial
 *
 * Degree 6 errs by less than one unit in the last place, degree 4 by 3e-6: enough for what becomes bfloat16.
 * AVX-512 has instructions that split off floor(x), so that r is in [0, 1); elsewhere n is the nearest whole number,
 * and r in [-1/2, 1/2]. NaN stays NaN, and 2^-inf is 0: a hidden key has score -inf and weighs nothing.
 */
#pragma once
#include "vector.h"

namespace clearhead::ISA {

constexpr float LOG2E = 1.44269504088896340736f, LN2 = 0.69314718055994530942f;
constexpr float INF = __builtin_inff();

/* (2^r - 1) / r for |r| <= 1/2. */
inline vec exp2_slope(vec r) {
    vec p = broadcast(1.535336181e-04f);
    p = fma(p, r, broadcast(1.339887445e-03f));
    p = fma(p, r, broadcast(9.618437358e-03f));
    p = fma(p, r, broadcast(5.550332471e-02f));
    p = fma(p, r, broadcast(2.402264791e-01f));
    return fma(p, r, broadcast(6.931472029e-01f));
}

/* The nearest whole number, as a float; NaN and infinities stay. */
inline vec round(vec x) {
#if defined(__AVX512F__)
    return (vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
    return (vec)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__aarch64__)
    return (vec)vrndnq_f32((float32x4_t)x);
#else
    constexpr float big = 12582912.0f; /* 1.5 * 2^23: adding it leaves no room for a fraction */
    vec n = (x + big) - big;
    return abs(x) < 4194304.0f ? n : x;
#endif
}

/* p * 2^n for whole n; flushes to 0 below the normal numbers. */
inline vec scale_by_power(vec p, vec n) {
#if defined(__AVX512F__)
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    vec clamped = n < -127.0f ? broadcast(-127.0f) : n; /* 2^-127 has no bits: 0 */
    clamped = clamped > 127.0f ? broadcast(127.0f) : clamped;
    ivec power = (__builtin_convertvector(clamped, ivec) + 127) << 23;
    return p * from_bits(power);
#endif
}

template <int degree = 6>
inline vec exp2(vec x) {
    static_assert(degree == 6 || degree == 4);
#if defined(__AVX512F__)
    vec r = (vec)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* x - floor(x); 0 of -inf */
    vec p;
    if constexpr (degree == 6) {
        p = broadcast(2.161291635e-04f);
        p = fma(p, r, broadcast(1.246784608e-03f));
        p = fma(p, r, broadcast(9.675451602e-03f));
        p = fma(p, r, broadcast(5.548528060e-02f));
        p = fma(p, r, broadcast(2.402293056e-01f));
        p = fma(p, r, broadcast(6.931470444e-01f));
    } else {
        p = broadcast(1.342668553e-02f);
        p = fma(p, r, broadcast(5.224247220e-02f));
        p = fma(p, r, broadcast(2.412802057e-01f));
        p = fma(p, r, broadcast(6.930448448e-01f));
    }
    return (vec)_mm512_scalef_ps((__m512)fma(p, r, broadcast(1.0f)), (__m512)x); /* times 2^floor(x) */
#else
    x = max(broadcast(-200.0f), x); /* nothing is left of it there; in this order NaN stays */
    vec n = round(x), r = x - n;
    return scale_by_power(fma(exp2_slope(r), r, broadcast(1.0f)), n);
#endif
}

template <int degree = 6>
inline vec exp(vec x) {
    return exp2<degree>(x * LOG2E);
}

/* tanh x = u / (u + 2), u = e^2x - 1, which keeps its digits where x is small. */
inline vec tanh(vec x) {
    vec y = max(broadcast(-40.0f), -abs(x)) * (2 * LOG2E);
    y = x != x ? x : y;
    vec n = round(y), r = y - n;
    vec power = scale_by_power(broadcast(1.0f), n);
    vec u = fma(power, exp2_slope(r) * r, power - 1.0f); /* e^-2|x| - 1, in (-1, 0] */
    vec t = u / (u + 2.0f);
    return x < 0.0f ? t : -t;
}

/* log x for normal x > 0; NaN stays. x = 2^e m, m about 1, and log m = 2 artanh(f), f = (m - 1) / (m + 1). */
inline vec log(vec x) {
    ivec e = (bits(x) - 0x3f3504f3) >> 23; /* m in [sqrt 1/2, sqrt 2) */
    vec m = from_bits(bits(x) - (e << 23)), f = (m - 1.0f) / (m + 1.0f), f2 = f * f;
    vec p = broadcast(2.0f / 9);
    p = fma(p, f2, broadcast(2.0f / 7));
    p = fma(p, f2, broadcast(2.0f / 5));
    p = fma(p, f2, broadcast(2.0f / 3));
    vec y = fma(to_float(e), broadcast(LN2), fma(p * f2, f, 2.0f * f));
    y = x == INF ? x : y;
    return x == x ? y : x;
}

/* log(1 + x) for x >= 0, to the last digits where x is small: what 1 + x rounds off is put back. */
inline vec log1p(vec x) {
    vec u = 1.0f + x, lost = x - (u - 1.0f);
    vec y = log(u) + lost / u;
    return u == INF ? u : y;
}

}  // namespace clearhead::ISA
