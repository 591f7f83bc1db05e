/* The k heaviest keys of each query, heaviest first, the lower key where two weigh the same.
 *
 * Of each query a list of its k highest scores so far, sorted. A vector of scores is compared with the lowest of the
 * lists, which soon are so high that most tiles cost one comparison a vector; only what is left becomes a weight.
 */
#pragma once
#include "weights.h"

namespace clearhead::ISA {

struct Lists {
    int64_t wide;  /* of a list: whole vectors of k and more, behind one whose last score is infinite */
    float* scores; /* [Q][wide], highest first, no_score where there is none yet */
    int32_t* keys;
    float lowest[Q]; /* the k-th of each list */
};

/* Every place takes the higher of what it has and of what moves in: the new score, or what stood before it, if lower.
 * Keys come in rising order, and one that only equals what is there goes behind it. */
inline void insert(Lists& lists, int64_t k, int lane, float score, int32_t key) {
    float* scores = lists.scores + lane * lists.wide + W;
    int32_t* keys = lists.keys + lane * lists.wide + W;
    for (int64_t x = lists.wide - 2 * W; x >= 0; x -= W) {
        vec here = load(scores + x), before = load(scores + x - 1);
        ivec moved = before >= score ? broadcast(key) : load(keys + x - 1);
        store(keys + x, here >= score ? load(keys + x) : moved);
        store(scores + x, max(here, before >= score ? broadcast(score) : before));
        if (scores[x - 1] >= score) break; /* nothing moves from here on */
    }
    lists.lowest[lane] = scores[k - 1];
}

inline void take_highest(const Pass& pass, int n, Lists& lists) {
    const float* s = pass.S + n * W;
    const int64_t k = pass.block.c->top_k;
    vec lowest = load(lists.lowest + n * W);
    for (int64_t j = pass.seen[n].start; j < pass.seen[n].stop; ++j) {
        ivec higher = load(s + j * Q) > lowest;
        if (!any(higher)) continue;
        for (int i = 0; i < W; ++i)
            if (higher[i]) insert(lists, k, n * W + i, s[j * Q + i], (int32_t)(pass.tile.start + j));
        lowest = load(lists.lowest + n * W);
    }
}

/* What is so low that its weight is 0, e^-104 in float32, stands for no score; a bit lower yet, for base's rounding. */
inline float no_score(float base) { return base - 104.0f - __builtin_fabsf(base) * 0x1p-22f; }

inline Lists& begin_lists(const Pass& pass, int64_t wide, Arena& arena) {
    Lists& lists = *arena.take<Lists>(1);
    lists.wide = wide;
    lists.scores = arena.take<float>(Q * wide);
    lists.keys = arena.take<int32_t>(Q * wide);
    for (int lane = 0; lane < Q; ++lane) {
        lists.lowest[lane] = no_score(pass.base[lane]);
        for (int64_t x = 0; x < wide; ++x) lists.scores[lane * wide + x] = x < W ? INF : lists.lowest[lane];
    }
    return lists;
}

inline void top_block(const Call& c, int64_t index) {
    const int64_t k = c.top_k, wide = above(k, W) + W;
    Arena arena{static_cast<char*>(clearhead_scratch(pass_bytes(c) + sizeof(Lists) + 2 * Q * wide * 4 + 256))};
    Pass& pass = begin_pass(c, index, {0, c.Tk}, arena);
    Lists& lists = begin_lists(pass, wide, arena);
    while (next_tile(pass))
        for (int n = 0; n < pass.block.vectors; ++n) take_highest(pass, n, lists);
    for (int lane = 0; lane < pass.block.count; ++lane) {
        const float* scores = lists.scores + lane * wide + W;
        const int32_t* keys = lists.keys + lane * wide + W;
        int64_t row = pass.block.row(lane) * k;
        for (int64_t x = 0; x < k; ++x) {
            float w = __builtin_expf(scores[x] - pass.base[lane]) * pass.peak[lane];
            c.top_weights[row + x] = w > 0 ? w : 0;
            c.top_keys[row + x] = w > 0 ? keys[x] : -1;
        }
    }
}

inline void top(const Call& c) {
    parallel(c.threads, count_blocks(c), [&](int64_t t) { top_block(c, t); });
}

}  // namespace clearhead::ISA
