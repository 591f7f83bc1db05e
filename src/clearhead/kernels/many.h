/* Linear: y = x Wᵀ + b for many rows of x, bound by how fast numbers can be multiplied.
 *
 *                 in                        Some rows of the weights are laid out as the panel that the products want,
 *          +--------------+                 which all rows of x then go over: a few of them are read where they lie,
 *     x    |  a few rows  |   sums of y     and their sums are rows of y. Meanwhile the weights of the next panel
 *          +--------------+                 are asked for, piece by piece, as memory is slower than the products.
 *            panel: in x `wide`
 */
#pragma once
#include "layer.h"
#include "panel.h"
#include "parallel.h"
#include "product.h"

extern "C" void* clearhead_common(size_t bytes); /* the calling thread's, read by all */

namespace clearhead::ISA {

constexpr int64_t LINE = 64; /* bytes that memory gives at once */

/* What a task makes: y of some rows of x, and of so many panels that the next one's weights are mostly its own. */
struct Share {
    int64_t row, last_row, panel, last_panel;
};

/* Calls work(share) for all of y, in panels of `wide`; rows of x are as many as stay in the cache meanwhile. */
template <class Work>
inline void each_share(const Layer& c, int64_t wide, Work work) {
    constexpr int64_t near = 512;
    int64_t panels = (c.out + wide - 1) / wide, group = panels / (4 * c.threads) + 1;
    int64_t groups = (panels + group - 1) / group, chunks = (c.rows + near - 1) / near;
    parallel(c.threads, groups * chunks, [&](int64_t task) {
        int64_t r = task / groups * near, p = task % groups * group;
        work(Share{r, r + near < c.rows ? r + near : c.rows, p, p + group < panels ? p + group : panels});
    });
}

/* The weights of the next panel, asked for in equal pieces. */
struct Ahead {
    const char *next, *end;
    int64_t piece;
    template <class T>
    Ahead(const T* weights, int64_t numbers, int64_t pieces)
        : next(reinterpret_cast<const char*>(weights)),
          end(reinterpret_cast<const char*>(weights + numbers)),
          piece((end - next) / pieces + LINE) {}
    void ask() {
        const char* stop = next + piece < end ? next + piece : end;
        for (; next < stop; next += LINE) __builtin_prefetch(next, 0, 2);
    }
};

/* m rows of y of a panel, from m rows of x as float32. */
template <int m, class T>
inline void rows_of_y(const float* x, int64_t x_row, const float* panel, int64_t in, const float* bias, T* y,
                      int64_t y_row, int64_t n) {
    auto sums = product<m, N>(x, x_row, 1, panel, N * W, in);
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < N && j * W < n; ++j)
            store_part(y + i * y_row + j * W, sums.at[i][j] + load(bias + j * W), n - j * W);
}

template <class T>
inline void many_of(const Layer& c) {
    constexpr int64_t wide = N * W;
    const T *weight = static_cast<const T*>(c.weight), *bias = static_cast<const T*>(c.bias);
    each_share(c, wide, [&](const Share& share) {
        size_t bytes = (size_t)((c.in + 1) * wide + M * c.in) * 4 + 256;
        Arena arena{static_cast<char*>(clearhead_scratch(bytes))};
        float *panel = arena.take<float>(c.in * wide), *b = arena.take<float>(wide), *few = arena.take<float>(M * c.in);
        for (int64_t p = share.panel; p < share.last_panel; ++p) {
            int64_t o = p * wide, n = c.out - o < wide ? c.out - o : wide;
            for (int64_t j = 0; j < wide; j += W) {
                const T* rows[W];
                for (int64_t i = 0; i < W; ++i) rows[i] = j + i < n ? weight + (o + j + i) * c.in : nullptr;
                pack(rows, c.in, panel + j, wide);
                store(b + j, bias && j < n ? load_part(bias + o + j, n - j) : vec{});
            }
            Ahead ahead(weight + (o + n) * c.in, p + 1 < share.last_panel ? wide * c.in : 0,
                        (share.last_row - share.row) / M + 1);
            for (int64_t r = share.row; r < share.last_row; r += M) {
                ahead.ask();
                int64_t m = share.last_row - r < M ? share.last_row - r : M;
                Rows x = {nullptr, c.x_row};
                if constexpr (sizeof(T) == 4) x.at = static_cast<const float*>(c.x) + r * c.x_row;
                else x = copy(static_cast<const T*>(c.x) + r * c.x_row, c.x_row, m, c.in, few, m, c.in, false);
                T* y = static_cast<T*>(c.y) + r * c.y_row + o;
                if (m == M) rows_of_y<M>(x.at, x.stride, panel, c.in, b, y, c.y_row, n);
                else
                    for (int64_t i = 0; i < m; ++i)
                        rows_of_y<1>(x.at + i * x.stride, x.stride, panel, c.in, b, y + i * c.y_row, c.y_row, n);
            }
        }
    });
}

}  // namespace clearhead::ISA
