/* What each key receives: received[b, h, j] = sum over i of w[i, j].
 *
 *     tasks     the blocks of a unit, every C-th to one task      C by shape alone, so that sums
 *     sums      [KEYS][W]    over a block's vectors, then its     come out the same for any number
 *                            lanes, once a tile                   of threads
 *     part      [heads][Tk]  of one task; at the end all C of a unit are added
 */
#pragma once
#include "weights.h"

namespace clearhead::ISA {

/* How many tasks share a unit: some dozens in all are enough for any machine to be busy. */
inline int64_t received_shares(const Call& c) { return least(blocks_of_unit(c), 64 / (c.B * units(c) + 1) + 1); }

/* part[j] += the sum over the lanes of sums[j], for the keys of one tile. */
inline void add_lanes(const vec* sums, float* part) {
    for (int j = 0; j < KEYS; j += W) {
        vec square[W];
        for (int x = 0; x < W; ++x) square[x] = sums[j + x];
        store(part + j, load(part + j) + sums_of_lanes(square));
    }
}

inline void received_block(const Call& c, int64_t index, float* part, int64_t wide, Arena arena) {
    Pass& pass = begin_pass(c, index, {0, c.Tk}, arena);
    const Block& block = pass.block;
    int64_t first = index / blocks_of_unit(c) % units(c) * heads_of_unit(c);
    while (next_tile(pass)) {
        for (int n = 0; n < block.vectors; ++n) {
            Weigh weigh(pass, n);
            for (int64_t j = pass.seen[n].start; j < pass.seen[n].stop; ++j) store(pass.S + j * Q + n * W, weigh(j));
        }
        for (int64_t h = block.head[0]; h <= block.head[block.count - 1]; ++h) {
            vec sums[KEYS] = {};
            for (int n = 0; n < block.vectors; ++n) {
                ivec mine;
                for (int i = 0; i < W; ++i) mine[i] = -(block.head[n * W + i] == h);
                for (int64_t j = pass.seen[n].start; j < pass.seen[n].stop; ++j)
                    sums[j] += select(mine, load(pass.S + j * Q + n * W), vec{});
            }
            add_lanes(sums, part + (h - first) * wide + pass.tile.start);
        }
    }
}

inline void received(const Call& c) {
    int64_t all = c.B * units(c), shares = received_shares(c), blocks = blocks_of_unit(c), heads = heads_of_unit(c);
    int64_t wide = above(c.Tk, KEYS);
    float* parts = zeros<float>(all * shares * heads * wide);
    parallel(c.threads, all * shares, [&](int64_t t) {
        Arena arena{static_cast<char*>(clearhead_scratch(pass_bytes(c)))};
        int64_t unit = t / shares;
        for (int64_t x = t % shares; x < blocks; x += shares)
            received_block(c, unit * blocks + x, parts + t * heads * wide, wide, arena);
    });
    parallel(c.threads, c.B * c.H, [&](int64_t t) {
        int64_t unit = t / heads, h = t % heads;
        for (int64_t j = 0; j < c.Tk; ++j) {
            float sum = 0;
            for (int64_t x = 0; x < shares; ++x) sum += parts[((unit * shares + x) * heads + h) * wide + j];
            c.received[t * c.Tk + j] = sum;
        }
    });
    free(parts);
}

}  // namespace clearhead::ISA
