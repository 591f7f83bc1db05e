/* Turns: tasks on several threads add to the same memory, tile by tile, in one order, so that sums come out bit for
 * bit the same however many threads there are.
 *
 *     tile      0    1    2    3        A task passes every tile, touched or not, in ascending order. It adds to a
 *     task 0   add  add   .    .        tile when all tasks before it have passed there; so the next task works one
 *     task 1    .   add  add   .        tile behind, at the same time, and nothing is kept to be summed up later.
 *     task 2    .    .   add  add
 *
 * Tasks are drawn in the same order, so the earliest at work never waits, and none waits for ever.
 */
#pragma once
#include <sched.h>
#include <stdint.h>

#include "vector.h"

namespace clearhead::ISA {

struct Turns {
    int32_t* passed; /* [tiles]: how many tasks have passed each tile */
    int32_t rank;    /* of this task */
    int64_t next;    /* the first tile that it has not passed */

    /* Waits until all tasks before this one have passed the tile. */
    void wait(int64_t tile) const {
        for (int spins = 0; __atomic_load_n(passed + tile, __ATOMIC_ACQUIRE) != rank; ++spins)
            if (spins > 100) sched_yield(); /* whom we wait for may want this very core */
    }

    /* Passes all tiles before `tile`. */
    void pass(int64_t tile) {
        for (; next < tile; ++next) {
            wait(next);
            __atomic_store_n(passed + next, rank + 1, __ATOMIC_RELEASE);
        }
    }
};

}  // namespace clearhead::ISA
