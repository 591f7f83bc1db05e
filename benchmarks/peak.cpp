/* The peak of this machine's multiply-adds: loops of nothing else, on chains that do not wait for one another.
 *
 * Each function returns the floating-point operations that it has done. The chains are named one by one, as an array
 * of them would be kept on the stack, and start from different values, as equal ones would be computed once.
 */
#include <cstdint>

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float vec __attribute__((vector_size(4 * W)));

extern "C" double fp32(int64_t steps) {
    vec x = vec{} + 0.9999f, y = vec{} + 0.0001f;
    vec a = vec{} + 1, b = vec{} + 2, c = vec{} + 3, d = vec{} + 4, e = vec{} + 5, f = vec{} + 6;
    vec g = vec{} + 7, h = vec{} + 8, i = vec{} + 9, j = vec{} + 10, k = vec{} + 11, l = vec{} + 12;
    for (int64_t s = 0; s < steps; ++s) {
        a = a * x + y, b = b * x + y, c = c * x + y, d = d * x + y, e = e * x + y, f = f * x + y;
        g = g * x + y, h = h * x + y, i = i * x + y, j = j * x + y, k = k * x + y, l = l * x + y;
    }
    volatile float keep = (a + b + c + d + e + f + g + h + i + j + k + l)[0];
    (void)keep;
    return 12.0 * 2 * W * static_cast<double>(steps);
}

#if defined(__AMX_BF16__)

/* Four tiles of 16 x 16 sums, each taking the product of 16 x 32 and 32 x 16 in turn. */
extern "C" const char* bf16_by() { return "AMX's tile products"; }
extern "C" double bf16(int64_t steps) {
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
    } shape;
    alignas(64) static const uint8_t zeros[16 * 64] = {};
    const long request = 0x1023, tiles = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    if (syscall(SYS_arch_prctl, request, tiles)) return 0;
    _tile_loadconfig(&shape);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, zeros, 64);
    _tile_loadd(5, zeros, 64);
    for (int64_t s = 0; s < steps; ++s) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_release();
    return 4.0 * 2 * 16 * 16 * 32 * static_cast<double>(steps);
}

#elif defined(__AVX512BF16__)

extern "C" const char* bf16_by() { return "vdpbf16ps"; }
extern "C" double bf16(int64_t steps) {
    const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80);
    __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(2), c = _mm512_set1_ps(3), d = _mm512_set1_ps(4);
    __m512 e = _mm512_set1_ps(5), f = _mm512_set1_ps(6), g = _mm512_set1_ps(7), h = _mm512_set1_ps(8);
    __m512 i = _mm512_set1_ps(9), j = _mm512_set1_ps(10), k = _mm512_set1_ps(11), l = _mm512_set1_ps(12);
    for (int64_t s = 0; s < steps; ++s) {
        a = _mm512_dpbf16_ps(a, x, x), b = _mm512_dpbf16_ps(b, x, x), c = _mm512_dpbf16_ps(c, x, x);
        d = _mm512_dpbf16_ps(d, x, x), e = _mm512_dpbf16_ps(e, x, x), f = _mm512_dpbf16_ps(f, x, x);
        g = _mm512_dpbf16_ps(g, x, x), h = _mm512_dpbf16_ps(h, x, x), i = _mm512_dpbf16_ps(i, x, x);
        j = _mm512_dpbf16_ps(j, x, x), k = _mm512_dpbf16_ps(k, x, x), l = _mm512_dpbf16_ps(l, x, x);
    }
    volatile float keep = _mm512_cvtss_f32(a + b + c + d + e + f + g + h + i + j + k + l);
    (void)keep;
    return 12.0 * 2 * 32 * static_cast<double>(steps);
}

#else

/* No unit for bfloat16: its numbers are widened, and multiplied as float32. */
extern "C" const char* bf16_by() { return "float32, to which its numbers are widened"; }
extern "C" double bf16(int64_t steps) { return fp32(steps); }

#endif
