/* Linear of bfloat16 by AMX: many.h's, with pairs for numbers, and 32 x 32 sums of y at a time.
 *
 *                               panel: in pairs, 32 rows of the weights        tiles 0 to 3 hold sums, 4 and 5 are of
 *     x  16 rows, 32 numbers    +--------+--------+                            x, 6 and 7 of the panel: four products
 *        +--------+             |   6    |   7    |                            for four tiles that are read
 *        |   4    |             +--------+--------+
 *        +--------+             |   0    |   1    |                            Two panels lie side by side, so that
 *        |   5    |             |   2    |   3    |                            rows of x are near for the second.
 *        +--------+             +--------+--------+
 */
#pragma once
#if defined(__AMX_BF16__)
#include "amx.h"
#include "many.h"

namespace clearhead::ISA {

constexpr int64_t SIDE = 32, TILE = 512; /* rows and numbers of a step, and the numbers that a tile holds */

/* The tiles of SIDE rows of the weights, two for each SIDE numbers of `in`; rows beyond n are 0. */
inline void lay_tiles(const bfloat16* weight, int64_t in, int64_t n, bfloat16* panel) {
    for (int64_t k = 0; k < in; k += SIDE)
        for (int64_t o = 0; o < SIDE; o += 16, panel += TILE) {
            vec square[16] = {};
            for (int64_t i = 0; i < 16 && o + i < n; ++i) {
                const bfloat16* row = weight + (o + i) * in + k;
                memcpy(&square[i], row, (size_t)(in - k < SIDE ? in - k : SIDE) * 2);
            }
            transpose(square);
            memcpy(panel, square, sizeof(square));
        }
}

/* S[SIDE][SIDE] = rows of x times the panel. */
inline void tiles_of_y(const bfloat16* x, int64_t x_row, const bfloat16* panel, int64_t in, float* S) {
    const bfloat16* below = x + 16 * x_row;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < in; k += SIDE, panel += 2 * TILE) {
        _tile_loadd(4, x + k, x_row * 2);
        _tile_loadd(6, panel, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, below + k, x_row * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, S, SIDE * 4);
    _tile_stored(1, S + 16, SIDE * 4);
    _tile_stored(2, S + 16 * SIDE, SIDE * 4);
    _tile_stored(3, S + 16 * SIDE + 16, SIDE * 4);
}

inline void many_by_tiles(const Layer& c) {
    constexpr int64_t wide = 2 * SIDE;
    int64_t deep = (c.in + SIDE - 1) / SIDE * SIDE;
    const auto *weight = static_cast<const bfloat16*>(c.weight), *bias = static_cast<const bfloat16*>(c.bias);
    each_share(c, wide, [&](const Share& share) {
        Amx::Ready ready;
        size_t bytes = (size_t)(deep * (wide + SIDE) * 2 + wide * (SIDE + 1) * 4 + 256);
        Arena arena{static_cast<char*>(clearhead_scratch(bytes))};
        auto *panel = arena.take<bfloat16>(deep * wide), *padded = arena.take<bfloat16>(deep * SIDE);
        auto *S = arena.take<float>(wide * SIDE), *b = arena.take<float>(wide);
        for (int64_t p = share.panel; p < share.last_panel; ++p) {
            int64_t o = p * wide, n = c.out - o < wide ? c.out - o : wide;
            for (int64_t j = 0; j < wide; j += SIDE) lay_tiles(weight + (o + j) * c.in, c.in, n - j, panel + j * deep);
            for (int64_t j = 0; j < wide; j += W) store(b + j, bias && j < n ? load_part(bias + o + j, n - j) : vec{});
            Ahead ahead(weight + (o + n) * c.in, p + 1 < share.last_panel ? wide * c.in : 0,
                        2 * (share.last_row - share.row) / SIDE + 2);
            for (int64_t r = share.row; r < share.last_row; r += SIDE) {
                int64_t m = share.last_row - r < SIDE ? share.last_row - r : SIDE, x_row = c.x_row;
                const bfloat16* x = static_cast<const bfloat16*>(c.x) + r * c.x_row;
                if (m < SIDE || deep != c.in) {
                    memset(padded, 0, (size_t)(deep * SIDE) * 2);
                    for (int64_t i = 0; i < m; ++i) memcpy(padded + i * deep, x + i * x_row, (size_t)c.in * 2);
                    x = padded, x_row = deep;
                }
                for (int64_t j = 0; j < wide; j += SIDE) {
                    ahead.ask();
                    tiles_of_y(x, x_row, panel + j * deep, deep, S + j * SIDE);
                }
                bfloat16* y = static_cast<bfloat16*>(c.y) + r * c.y_row + o;
                for (int64_t i = 0; i < m; ++i, y += c.y_row)
                    for (int64_t j = 0; j < n; j += W) {
                        const float* sums = S + (j / SIDE * SIDE + i) * SIDE + j % SIDE;
                        store_part(y + j, load(sums) + load(b + j), n - j);
                    }
            }
        }
    });
}

}  // namespace clearhead::ISA
#endif
