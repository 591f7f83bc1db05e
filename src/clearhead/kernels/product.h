/* The one product under everything: C = A B, A's elements broadcast, B's rows vectors.
 *
 *            B  depth x (n vectors)                 scores   S^T = K Q^T    A = K      B = Q^T   depth D
 *          +--------------------+                   output   O^T = V^T P^T  A = V^T    B = P^T   depth keys
 *          |  b0     b1     b2  |  one step         dV       P^T dO         A = P^T    B = dO    depth queries
 *          +--------------------+
 *     A   +-+  +----+----+----+
 *     m   |a|  |    |    |    |   m x n sums in registers: each step loads n vectors of B
 *   rows  +-+  +----+----+----+   and m single numbers of A, for m * n multiply-adds.
 *
 * A is read where it lies, by a stride between its rows and another between its steps: nothing is packed.
 */
#pragma once
#include "vector.h"

namespace clearhead::ISA {

template <int m, int n>
struct Sums {
    vec at[m][n];
};

template <int m, int n>
__attribute__((always_inline)) inline Sums<m, n> product(const float* a, int64_t row, int64_t step, const float* b,
                                                         int64_t width, int64_t depth) {
    Sums<m, n> c;
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < n; ++j) c.at[i][j] = vec{};
#pragma GCC unroll 4 /* few enough turns that the loop's end is foreseen */
    for (int64_t x = 0; x < depth; ++x, a += step, b += width) {
        vec line[n];
#pragma GCC unroll 4
        for (int j = 0; j < n; ++j) line[j] = load(b + j * W);
#pragma GCC unroll 8
        for (int i = 0; i < m; ++i) {
            vec one = broadcast(a[i * row]);
#pragma GCC unroll 4
            for (int j = 0; j < n; ++j) c.at[i][j] = fma(one, line[j], c.at[i][j]);
        }
    }
    return c;
}

}  // namespace clearhead::ISA
