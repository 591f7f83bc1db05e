/* Dropout by a counter: Philox 4x32-7 (Salmon et al. 2011) of (key / 4, query, batch x head) under the seed.
 *
 * What is dropped depends on the pair alone: the same in forward and backward, for any tiles and threads.
 */
#pragma once
#include "walk.h"

namespace clearhead::ISA {

typedef uint32_t uvec __attribute__((vector_size(4 * W), may_alias));
typedef uint64_t wide __attribute__((vector_size(8 * W), may_alias));

struct Dropout {
    float dropout, kept; /* a weight that stays grows by 1 / (1 - dropout) */
    uint64_t seed;
    uvec query, head;
    int64_t four = -1; /* the keys that `numbers` are of: 4 * four .. */
    uvec numbers[4];

    Dropout(const Block& block, int n)
        : dropout(block.c->dropout), kept(1 / (1 - block.c->dropout)), seed(block.c->seed) {
        for (int i = 0; i < W; ++i) {
            query[i] = (uint32_t)block.query[n * W + i];
            head[i] = (uint32_t)(block.b * block.c->H + block.head[n * W + i]);
        }
    }

    static void multiply(uint32_t by, uvec x, uvec& high, uvec& low) {
        wide y = __builtin_convertvector(x, wide) * (uint64_t)by;
        high = __builtin_convertvector(y >> 32, uvec);
        low = __builtin_convertvector(y, uvec);
    }

    /* 0 where the weight of key j is dropped, 1 / (1 - dropout) where it stays. */
    vec keep(int64_t j) {
        if (j / 4 != four) {
            four = j / 4;
            uvec a = uvec{} + (uint32_t)four, b = query, c = head, d = {};
            uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
            for (int round = 0; round < 7; ++round) {
                uvec high0, low0, high1, low1;
                multiply(0xD2511F53u, a, high0, low0);
                multiply(0xCD9E8D57u, c, high1, low1);
                a = high1 ^ b ^ key0, b = low1;
                c = high0 ^ d ^ key1, d = low0;
                key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
            }
            numbers[0] = a, numbers[1] = b, numbers[2] = c, numbers[3] = d;
        }
        uvec bits24 = numbers[j & 3] >> 8; /* as many as a float holds */
        vec uniform = __builtin_convertvector(reinterpret_cast<ivec&>(bits24), vec) * 0x1p-24f;
        return uniform >= dropout ? broadcast(kept) : vec{};
    }
};

}  // namespace clearhead::ISA
