/* Of whole rows: how few keys it takes to hold a share of the row's weight, and what marked keys hold of it.
 *
 *     strip [Tk][W]   the weights of a vector of queries
 *
 * All but the lightest keys, as long as these hold 1 - share at most. The highest weight that may not be left out is
 * found by halving the numbers between two bounds; as the bits of numbers above 0 are in their order, 31 times will do.
 */
#pragma once
#include "weights.h"

namespace clearhead::ISA {

typedef double doubles __attribute__((vector_size(8 * W)));

inline doubles widen(vec x) { return __builtin_convertvector(x, doubles); }

constexpr int FEW = 8; /* summed in float32 before they join the others: of equal weights none is lost to rounding */

/* The sum of the weights up to `most`, and how many more there are. */
struct Light {
    doubles sum;
    ivec heavier;
};

inline Light light(const float* strip, int64_t n, vec most) {
    Light found = {};
    for (int64_t j = 0; j < n; j += FEW) {
        vec sum = {};
        for (int64_t x = j; x < j + FEW; ++x) {
            const vec w = load(strip + x * W);
            const ivec heavier = w > most; /* NaN is not, and shows in the sum */
            sum += heavier ? vec{} : w;
            found.heavier -= heavier;
        }
        found.sum += widen(sum);
    }
    return found;
}

/* n is a multiple of FEW; a weight of 0 may stand where there is no key. */
inline vec fewest_of(const float* strip, int64_t n, float share) {
    const doubles total = light(strip, n, broadcast(INF)).sum, lost = total * ((1.0 - share) * (1 + 1e-6));
    ivec low = {}, high = broadcast((int32_t)0x40000000); /* up to `low` not too much is left out, up to `high` it is */
    while (any(high - low > 1)) {
        const ivec middle = low + (high - low) / 2;
        const doubles sum = light(strip, n, from_bits(middle)).sum;
        const ivec too_much = __builtin_convertvector(sum > lost, ivec);
        high = select(too_much, middle, high);
        low = select(too_much, low, middle);
    }
    const Light left = light(strip, n, from_bits(low));
    const vec least_kept = from_bits(high); /* of which some may be left out as well */
    const doubles more = (lost - left.sum) / widen(least_kept);
    const vec few = to_float(left.heavier - __builtin_convertvector(more, ivec));
    const vec known = __builtin_convertvector(total, vec);
    return known > 0.0f ? few : known;
}

inline void fewest_block(const Call& c, int64_t index) {
    const int64_t rows = above(c.Tk, KEYS);
    Arena arena{static_cast<char*>(clearhead_scratch(pass_bytes(c) + (rows + c.marked) * Q * 4 + 256))};
    float *strips = arena.take<float>(rows * Q), *on = arena.take<float>(c.marked * Q);
    Pass& pass = begin_pass(c, index, {0, c.Tk}, arena);
    const Block& block = pass.block;
    const int64_t stop = most(block.last, 0) * KEYS;
    for (int n = 0; n < block.vectors; ++n) memset(strips + n * rows * W, 0, stop * W * 4);
    memset(on, 0, c.marked * Q * 4);
    while (next_tile(pass))
        for (int n = 0; n < block.vectors; ++n) {
            Weigh weigh(pass, n);
            const int64_t first = pass.tile.start;
            float* strip = strips + (n * rows + first) * W;
            for (int64_t j = pass.seen[n].start; j < pass.seen[n].stop; ++j) store(strip + j * W, weigh(j));
            for (int64_t m = 0; m < c.marked; ++m) {
                vec sum = {};
                for (int64_t j = pass.seen[n].start; j < least(pass.seen[n].stop, c.Tk - first); ++j)
                    sum = fma(broadcast(c.marks[m * c.Tk + first + j]), load(strip + j * W), sum);
                float* to = on + m * Q + n * W;
                store(to, load(to) + sum);
            }
        }
    float few[Q];
    for (int n = 0; n < block.vectors; ++n) store(few + n * W, fewest_of(strips + n * rows * W, stop, c.share));
    for (int lane = 0; lane < block.count; ++lane) {
        c.fewest[block.row(lane)] = few[lane];
        for (int64_t m = 0; m < c.marked; ++m) c.on[m * c.B * c.H * c.Tq + block.row(lane)] = on[m * Q + lane];
    }
}

inline void fewest(const Call& c) {
    parallel(c.threads, count_blocks(c), [&](int64_t t) { fewest_block(c, t); });
}

}  // namespace clearhead::ISA
