/* What a kernel is measured against: multiply-adds from registers, as many as the machine can. */
#pragma once
#include "vector.h"

namespace clearhead::ISA {

/* Twelve chains hide the latency. They are named one by one, as an array of them would be kept on the stack, and begin
 * apart, or the compiler would see that they are one. */
inline double peak(int64_t steps) {
    vec x = broadcast(0.9999f), y = broadcast(1e-4f);
    vec a = x + 1, b = x + 2, c = x + 3, d = x + 4, e = x + 5, f = x + 6;
    vec g = x + 7, h = x + 8, i = x + 9, j = x + 10, k = x + 11, l = x + 12;
    for (int64_t s = 0; s < steps; ++s) {
        a = fma(a, x, y), b = fma(b, x, y), c = fma(c, x, y), d = fma(d, x, y);
        e = fma(e, x, y), f = fma(f, x, y), g = fma(g, x, y), h = fma(h, x, y);
        i = fma(i, x, y), j = fma(j, x, y), k = fma(k, x, y), l = fma(l, x, y);
    }
    volatile float keep = (a + b + c + d + e + f + g + h + i + j + k + l)[0];
    (void)keep;
    return 24.0 * W * (double)steps;
}

}  // namespace clearhead::ISA
