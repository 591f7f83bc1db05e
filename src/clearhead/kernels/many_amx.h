/* Linear of floats by AMX: many rows of x, and 32 x 32 sums of y at a time.
 *
 * A float is the sum of three bfloat16, each of 8 of its 24 bits: x = x0 + x1 + x2. Of the nine products of two such
 * sums six are taken, x0 w0 + (x0 w1 + x1 w0) + (x0 w2 + x1 w1 + x2 w0); the others are as small as the rounding of
 * a float's own product (Henry et al. 2019). Sums are of floats. It takes two thirds of the time of multiplying them.
 * The tiles take parts below the normal numbers as 0, so that numbers below 2^-102 count with fewer bits.
 *
 *                           weights: in pairs, 32 of their rows        tiles 0 to 3 hold sums, 4 and 5 are of x,
 *     x  16 rows, 32 numbers    +--------+--------+                    6 and 7 of the weights: four products for
 *        +--------+             |   6    |   7    |                    four tiles that are read
 *        |   4    |             +--------+--------+
 *        +--------+             |   0    |   1    |                    First, x and some of the weights are laid
 *        |   5    |             |   2    |   3    |                    out as such tiles, once for all tasks.
 *        +--------+             +--------+--------+
 */
#pragma once
#if defined(__AMX_BF16__)
#include "amx.h"
#include "many.h"
#include "pairs.h"

namespace clearhead::ISA {

constexpr int64_t SIDE = 32, TILE = 512; /* rows and numbers of a step, and the numbers that a tile holds */
constexpr int64_t PARTS = 3, TWO = 2 * TILE, TILES = PARTS * TWO; /* numbers of two tiles, and of a step's */
constexpr int32_t WILD = 0x7f7f0000; /* the bits of the largest number that has parts: beyond, one would be infinite */

/* 32 numbers of a row, or the first n, as the pairs of each part: a number and the one 16 further on. The largest of
 * them is kept in `largest`, by its bits. */
inline void split(const float* p, int64_t n, vec (&parts)[PARTS], ivec& largest) {
    vec low = load_part(p, n), high = n > W ? load_part(p + W, n - W) : vec{};
    ivec a = bits(abs(low)), b = bits(abs(high)), both = select(a > b, a, b);
    largest = select(both > largest, both, largest);
    for (vec& part : parts) {
        part = pair(low, high);
        low -= from_bits(bits(part) << 16);
        high -= from_bits(bits(part) & (int32_t)0xffff0000);
    }
}

/* 16 rows, or n of them and 0, of 32 numbers as a tile a part. Turned: pairs are its rows, rows its columns. */
template <bool turned>
inline void lay_tile(const float* rows, int64_t row, int64_t numbers, int64_t n, bfloat16* tiles, ivec& largest) {
    vec lines[PARTS][16];
    for (int64_t i = 0; i < 16; ++i) {
        vec of_row[PARTS] = {};
        if (i < n) split(rows + i * row, numbers, of_row, largest);
        for (int p = 0; p < PARTS; ++p) lines[p][i] = of_row[p];
    }
    for (int p = 0; p < PARTS; ++p) {
        if constexpr (turned) transpose(lines[p]);
        memcpy(tiles + p * TWO, lines[p], sizeof(lines[p]));
    }
}

/* n rows as blocks of 32, 0 beyond: of a block, for each 32 numbers, two tiles a part. */
template <bool turned>
inline void lay_blocks(int threads, const float* rows, int64_t row, int64_t in, int64_t n, bfloat16* tiles,
                       bool* wild) {
    int64_t steps = (in + SIDE - 1) / SIDE;
    parallel(threads, (n + SIDE - 1) / SIDE, [&](int64_t block) {
        ivec largest = {};
        for (int64_t k = 0; k < steps; ++k)
            for (int64_t r = block * SIDE; r < (block + 1) * SIDE; r += 16)
                lay_tile<turned>(rows + r * row + k * SIDE, row, in - k * SIDE, n - r,
                                 tiles + (block * steps + k) * TILES + (r % SIDE ? TILE : 0), largest);
        if (any(largest > WILD)) __atomic_store_n(wild, true, __ATOMIC_RELAXED);
    });
}

inline void two_of_x(const bfloat16* tiles) {
    _tile_loadd(4, tiles, 64);
    _tile_loadd(5, tiles + TILE, 64);
}
inline void two_of_weights(const bfloat16* tiles) {
    _tile_loadd(6, tiles, 64);
    _tile_loadd(7, tiles + TILE, 64);
}
inline void four_products() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* S[SIDE][SIDE] = a block of x times one of the weights. */
inline void tiles_of_y(const bfloat16* x, const bfloat16* weights, int64_t steps, float* S) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; ++k, x += TILES, weights += TILES) { /* two tiles or four stay from line to line */
        two_of_x(x + 2 * TWO), two_of_weights(weights), four_products();
        two_of_x(x + TWO), four_products();
        two_of_weights(weights + TWO), four_products();
        two_of_x(x), four_products();
        two_of_weights(weights + 2 * TWO), four_products();
        two_of_weights(weights), four_products();
    }
    _tile_stored(0, S, SIDE * 4);
    _tile_stored(1, S + 16, SIDE * 4);
    _tile_stored(2, S + 16 * SIDE, SIDE * 4);
    _tile_stored(3, S + 16 * SIDE + 16, SIDE * 4);
}

constexpr int64_t ROWS_AT_ONCE = 1024, OUT_AT_ONCE = 512; /* rows of x and of the weights that lie in tiles */
constexpr int64_t HIGH = 4 * SIDE, WIDE = 2 * SIDE;       /* rows of both that a task has: they stay in its cache */
constexpr int64_t STRETCH_OF_SUM = 64; /* steps that are summed before they join the others, as a long sum is inexact */

/* The same of many steps, by stretches. */
inline void long_sums(const bfloat16* x, const bfloat16* weights, int64_t steps, float* S) {
    tiles_of_y(x, weights, steps < STRETCH_OF_SUM ? steps : STRETCH_OF_SUM, S);
    alignas(64) float more[SIDE * SIDE];
    for (int64_t k = STRETCH_OF_SUM; k < steps; k += STRETCH_OF_SUM) {
        int64_t n = steps - k < STRETCH_OF_SUM ? steps - k : STRETCH_OF_SUM;
        tiles_of_y(x + k * TILES, weights + k * TILES, n, more);
        for (int64_t i = 0; i < SIDE * SIDE; i += W) store(S + i, load(S + i) + load(more + i));
    }
}

/* y of some blocks of rows from r on, and of two blocks of the weights from o on. */
inline void sums_of_task(const Layer& c, const bfloat16* x, int64_t r, int64_t rows, const bfloat16* weights, int64_t o,
                         int64_t out, int64_t steps) {
    alignas(64) float S[2 * SIDE * SIDE], b[WIDE];
    for (int64_t j = 0; j < WIDE; j += W)
        store(b + j, c.bias && j < out ? load_part(static_cast<const float*>(c.bias) + o + j, out - j) : vec{});
    for (int64_t i = 0; i < rows; i += SIDE, x += steps * TILES) {
        for (int64_t j = 0; j < WIDE && j < out; j += SIDE)
            long_sums(x, weights + j / SIDE * steps * TILES, steps, S + j * SIDE);
        float* y = static_cast<float*>(c.y) + (r + i) * c.y_row + o;
        for (int64_t m = 0; m < SIDE && i + m < rows; ++m, y += c.y_row)
            for (int64_t j = 0; j < WIDE && j < out; j += W) {
                const float* sums = S + (j / SIDE * SIDE + m) * SIDE + j % SIDE;
                store_part(y + j, load(sums) + load(b + j), out - j);
            }
    }
}

inline void many_by_tiles(const Layer& c) {
    auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
    int64_t steps = (c.in + SIDE - 1) / SIDE, block = steps * TILES;
    int64_t turns = (c.out + OUT_AT_ONCE - 1) / OUT_AT_ONCE; /* all about equally large */
    int64_t out_at_once = (c.out / turns + WIDE) / WIDE * WIDE;
    int64_t rows_of_x = least(c.rows, ROWS_AT_ONCE) / SIDE + 1;
    auto* X = static_cast<bfloat16*>(clearhead_common((size_t)((rows_of_x + out_at_once / SIDE) * block) * 2));
    auto* weights = X + rows_of_x * block;
    bool wild = false;
    for (int64_t r = 0; r < c.rows; r += ROWS_AT_ONCE) {
        int64_t rows = least(c.rows - r, ROWS_AT_ONCE), chunks = (rows + HIGH - 1) / HIGH;
        lay_blocks<false>(c.threads, static_cast<const float*>(c.x) + r * c.x_row, c.x_row, c.in, rows, X, &wild);
        for (int64_t o = 0; o < c.out; o += out_at_once) {
            int64_t out = least(c.out - o, out_at_once), panels = (out + WIDE - 1) / WIDE;
            lay_blocks<true>(c.threads, static_cast<const float*>(c.weight) + o * c.in, c.in, c.in, out, weights,
                             &wild);
            parallel(c.threads, chunks * panels, [&](int64_t task) {
                Amx::Ready ready;
                int64_t i = task / panels * HIGH, j = task % panels * WIDE;
                sums_of_task(c, X + i / SIDE * block, r + i, least(rows - i, HIGH), weights + j / SIDE * block, o + j,
                             least(out - j, WIDE), steps);
            });
        }
    }
    if (wild) many_of<float>(c);
}

}  // namespace clearhead::ISA
#endif
