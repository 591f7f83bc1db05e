/* What listed keys hold of each query's weight: held[r, b, h, i] = the sum of w[i, j] over the keys of role r.
 *
 *     named   | role 0: Tk / roles keys, whole tiles | role 1        | ...     any keys in any order, some twice
 *     runs    those of row r say which of them are query order[r]'s
 *
 * Queries with the same keys lie side by side, so that they make whole tiles, and so do the heads of a group.
 */
#pragma once
#include "weights.h"

namespace clearhead::ISA {

inline void held_block(const Call& c, int64_t index) {
    Arena arena{static_cast<char*>(clearhead_scratch(pass_bytes(c) + c.roles * Q * 4))};
    float* held = arena.take<float>(c.roles * Q);
    memset(held, 0, c.roles * Q * 4);
    Pass& pass = begin_pass(c, index, {0, c.Tk}, arena);
    const Block& block = pass.block;
    while (next_tile(pass))
        for (int n = 0; n < block.vectors; ++n) {
            Weigh weigh(pass, n);
            vec even = {}, odd = {};
            for (int64_t j = pass.seen[n].start; j < pass.seen[n].stop; j += 2) {
                even += weigh(j);
                odd += weigh(j + 1);
            }
            float* sum = held + pass.tile.start / (c.Tk / c.roles) * Q + n * W;
            store(sum, load(sum) + (even + odd));
        }
    for (int64_t role = 0; role < c.roles; ++role)
        for (int lane = 0; lane < block.count; ++lane)
            c.held[role * c.B * c.H * c.Tq + place_of(block, lane)] = held[role * Q + lane];
}

inline void held(const Call& c) {
    parallel(c.threads, count_blocks(c), [&](int64_t t) { held_block(c, t); });
}

}  // namespace clearhead::ISA
