/* Backward: gradients of q, k, v, sinks and biases, every tile's weights made again (Dao et al. 2022).
 *
 *                        tiles of keys
 *                    +------+------+------+      A task takes several blocks of queries of one key head (of all the
 *            block 0 |      |      |      |      heads of its group) and walks with them over the tiles of keys: K and
 *     task   block 1 |  1   |  2   |  3   |      V are brought in, and dK and dV taken out, once for all its blocks.
 *            block 2 |      |      |      |
 *                    +------+------+------+      dQ stays with its block. dK and dV are the tile's: tasks of the same
 *            block 3 |      |      |             key head add to them in turn (backward_turns.h), so that there are as
 *     task   block 4 |  1   |  2   |  . .        many tasks as there are queries for, and nothing to sum up at the end.
 *            block 5 |      |      |
 *                    +------+------+             How queries are cut into tasks depends on the shape alone.
 */
#pragma once
#include <sys/mman.h>

#include "backward_pairs.h"
#include "backward_rows.h"
#include "backward_turns.h"

namespace clearhead::ISA {

/* What all tasks share. */
struct Shared {
    float* delta;    /* rows */
    Tensor dk, dv;   /* float32: the call's own where that is its type */
    int32_t* passed; /* [queues][tiles + 1], of Turns: the last is passed when all else is done */
    bool one_queue;  /* tasks of all key heads take turns with one another, as they share a bias */
    bool wild;
    int64_t tiles, blocks, size, chunks; /* blocks of a key head, and how they are cut: `size` a task */
};

/* Enough tasks for many threads, and enough blocks in each that what it shares is worth it and still in cache. */
inline int64_t blocks_of_task(const Call& c, int64_t blocks) {
    int64_t rows = c.D + c.Dv <= 128 ? 768 : 384;
    return most(2, least(rows / Q, c.B * c.K * blocks / 16));
}

inline size_t held_bytes(const Backward& w) {
    const Call& c = w.scored;
    return block_bytes(c) + bias_bytes(c) + ((w.panel_D + w.panel_Dv + w.D) * Q + Q * (w.wide_D + w.wide_Dv)) * 4 + 512;
}

inline size_t tile_bytes(const Backward& w) {
    return (3 * KEYS * Q + KEYS * (2 * w.D + w.wide_D + 2 * w.wide_Dv) + KEYS * 4 * Q + 16 * (w.wide_D + w.wide_Dv)) *
               4 +
           1024;
}

template <class T>
inline void hold(Held& held, const Backward& w, const Shared& shared, int64_t index, Arena& arena) {
    const Call& c = w.scored;
    Block& block = held.block;
    enter(block, c, index, arena);
    held.bias = begin_bias(c, block, arena);
    held.more = next(block, held.tile);
    held.QT = arena.take<float>(w.panel_D * Q);
    held.dOT = arena.take<float>(w.panel_Dv * Q);
    held.dQT = arena.take<float>(w.D * Q);
    memset(held.dQT, 0, w.D * Q * 4);
    hold_rows<T>(w, held);
    for (int lane = 0; lane < Q; ++lane) {
        int64_t r = block.row(lane);
        bool there = lane < block.count;
        held.base[lane] = there && c.top[r] != -INF ? c.top[r] : 0;
        held.norm[lane] = there ? 1 / c.sum[r] : 0;
        held.delta[lane] = there ? shared.delta[r] : 0;
    }
}

template <class T>
inline void write_dq(const Call& c, const Held& held) {
    const Block& block = held.block;
    for (int n = 0; n < block.vectors; ++n) {
        T* rows[W];
        rows_of<T>(block, c.dq, n, rows);
        unpack(held.dQT + n * W, Q, broadcast(c.scale), rows, c.D);
    }
}

/* The tile's keys and values, and room for their sums. */
template <class T>
inline Keys enter_tile(const Backward& w, const Block& block, const Tile& tile) {
    const Call& c = w.scored;
    Keys keys;
    enter_rows<T>(w, block, tile, keys);
    keys.dK = c.dk.data ? w.dK : nullptr;
    keys.dV = c.dv.data ? w.dV : nullptr;
    if (keys.dK) memset(w.dK, 0, KEYS * w.wide_D * 4);
    if (keys.dV) memset(w.dV, 0, KEYS * w.wide_Dv * 4);
    return keys;
}

inline void add_keys(const Backward& w, const Shared& shared, const Block& block, const Tile& tile) {
    const Call& c = w.scored;
    int64_t n = tile.stop - tile.start;
    auto at = [&](const Tensor& x) { return const_cast<float*>(row_at<float>(x, block.b, block.kv, tile.start)); };
    if (c.dk.data) add_rows(w.dK, w.wide_D, c.scale, at(shared.dk), shared.dk.row, n, c.D);
    if (c.dv.data) add_rows(w.dV, w.wide_Dv, 1, at(shared.dv), shared.dv.row, n, c.Dv);
}

/* Task t, of the tasks that go from the last queries, which see most under a causal pattern, to the first. */
template <class T>
void backward_task(const Call& c, const Shared& shared, int64_t t) {
    Backward w;
    w.scored = c;
    w.scored.softcap = 0;
    w.softcap = c.softcap;
    w.wild = shared.wild;
    w.D = above(c.D, paired<T> ? 16 : 8);
    w.wide_D = above(c.D, W);
    w.wide_Dv = above(c.Dv, W);
    w.panel_D = paired<T> ? above(c.D, 32) / 2 : c.D;
    w.panel_Dv = paired<T> ? above(c.Dv, 32) / 2 : c.Dv;
    int64_t heads = c.B * c.K, unit = t % heads, turn = t / heads;
    int64_t first = (shared.chunks - 1 - turn) * shared.size, count = least(shared.size, shared.blocks - first);

    Arena arena{static_cast<char*>(clearhead_scratch(tile_bytes(w) + count * (held_bytes(w) + sizeof(Held) + 64)))};
    w.S = arena.take<float>(KEYS * Q);
    w.dP = arena.take<float>(KEYS * Q);
    w.slope = arena.take<float>(KEYS * Q);
    w.K = arena.take<float>(KEYS * w.D);
    w.clean = arena.take<float>(KEYS * w.D);
    w.V = arena.take<float>(KEYS * w.wide_Dv);
    w.dK = arena.take<float>(KEYS * w.wide_D);
    w.dV = arena.take<float>(KEYS * w.wide_Dv);
    w.P16 = arena.take<bfloat16>(KEYS * 4 * Q);
    w.dS16 = arena.take<bfloat16>(KEYS * 4 * Q);
    Held* held = arena.take<Held>(count);
    int64_t rows = paired<T> ? Q / 2 : Q, more = paired<T> ? 16 : 0; /* AMX reads 16 rows of pairs at a time */
    float* q_rows = arena.take<float>((count * rows + more) * w.wide_D);
    float* dout_rows = arena.take<float>((count * rows + more) * w.wide_Dv);
    memset(q_rows + count * rows * w.wide_D, 0, more * w.wide_D * 4);
    memset(dout_rows + count * rows * w.wide_Dv, 0, more * w.wide_Dv * 4);
    for (int64_t x = 0; x < count; ++x) {
        held[x].q_rows = q_rows + x * rows * w.wide_D;
        held[x].dout_rows = dout_rows + x * rows * w.wide_Dv;
        hold<T>(held[x], w, shared, unit * shared.blocks + first + x, arena);
    }

    Turns turns{shared.passed + (shared.one_queue ? 0 : unit * (shared.tiles + 1)),
                (int32_t)(shared.one_queue ? t : turn), 0};
    for (int64_t x = 0; x < count; ++x) /* sums by distance that have no order of their own to be kept in */
        if (c.dtable && !held[x].block.in_order) turns.wait(shared.tiles);
    for (;;) {
        int64_t start = c.Tk;
        for (int64_t x = 0; x < count; ++x)
            if (held[x].more) start = least(start, held[x].tile.start);
        if (start == c.Tk) break;
        Tile tile{start, least(start + KEYS, c.Tk), false};
        Keys keys = enter_tile<T>(w, held[0].block, tile);
        if (c.ddense) turns.pass(start / KEYS), turns.wait(start / KEYS);
        backward_blocks<T>(w, held, count, tile, keys);
        for (int64_t x = 0; x < count; ++x) {
            if (!sees_tile(held[x], tile)) continue;
            if (w.wild && keys.dV) add_wild_gradients<T>(w, held[x], held[x].tile);
            held[x].more = next(held[x].block, held[x].tile);
        }
        turns.pass(start / KEYS), turns.wait(start / KEYS);
        add_keys(w, shared, held[0].block, tile);
        turns.pass(start / KEYS + 1);
    }
    if (c.dq.data)
        for (int64_t x = 0; x < count; ++x) write_dq<T>(c, held[x]);
    turns.pass(shared.tiles), turns.wait(shared.tiles);
    for (int64_t x = 0; x < count; ++x) end_bias(c, held[x].block, held[x].bias);
    turns.pass(shared.tiles + 1);
}

/* Memory that a call's tasks share, zeroed: in large pages if there are, as small ones fault a fifth of the time away.
 */
struct Room {
    size_t bytes;
    void* memory;

    explicit Room(size_t wanted) : bytes(wanted) {
        memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) __builtin_trap(); /* as any allocation would end on a machine that has none left */
#if defined(MADV_HUGEPAGE)
        madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    }
    ~Room() { munmap(memory, bytes); }
};

/* Where sums of key gradients go: into the call's own tensor, zeroed, or into float32 rows of their own. */
template <class T>
inline Tensor key_sums(const Call& c, const Tensor& own, int64_t D, Arena& arena) {
    if (!own.data) return own;
    if constexpr (__is_same(T, float)) {
        each_slice(c, c.K, c.Tk, [&](int64_t b, int64_t h, int64_t first, int64_t count) {
            for (int64_t j = first; j < first + count; ++j)
                memset(const_cast<float*>(row_at<float>(own, b, h, j)), 0, D * 4);
        });
        return own;
    }
    return {arena.take<float>(c.B * c.K * c.Tk * D), c.K * c.Tk * D, c.Tk * D, D};
}

template <class T>
inline void end_key_sums(const Call& c, const Tensor& sums, const Tensor& own, int64_t D) {
    if (!own.data || sums.data == own.data) return;
    each_slice(c, c.K, c.Tk, [&](int64_t b, int64_t h, int64_t first, int64_t count) {
        round_rows<T>(sums, own, b, h, first, count, D);
    });
}

template <class T>
inline bool any_wild_row(const Call& c) {
    int wild = 0;
    each_slice(c, c.K, c.Tk, [&](int64_t b, int64_t h, int64_t first, int64_t count) {
        if (any_wild<T>(from_row<T>(c.k, first), b, h, count, c.D) ||
            any_wild<T>(from_row<T>(c.v, first), b, h, count, c.Dv))
            __atomic_store_n(&wild, 1, __ATOMIC_RELAXED);
    });
    each_slice(c, c.H, c.Tq, [&](int64_t b, int64_t h, int64_t first, int64_t count) {
        if (any_wild<T>(from_row<T>(c.q, first), b, h, count, c.D) ||
            any_wild<T>(from_row<T>(c.dout, first), b, h, count, c.Dv))
            __atomic_store_n(&wild, 1, __ATOMIC_RELAXED);
    });
    return wild;
}

template <class T>
inline void backward_of(const Call& c) {
    Shared shared;
    shared.wild = any_wild_row<T>(c);
    shared.tiles = (c.Tk + KEYS - 1) / KEYS;
    shared.blocks = blocks_of_unit(c) * units(c) / c.K;
    shared.size = blocks_of_task(c, shared.blocks);
    shared.chunks = (shared.blocks + shared.size - 1) / shared.size;
    shared.one_queue = bias_shared(c);
    int64_t turns = (shared.one_queue ? 1 : c.B * c.K) * (shared.tiles + 1), rows = c.B * c.H * c.Tq;
    int64_t sums = __is_same(T, float) ? 0 : c.B * c.K * c.Tk * ((c.dk.data ? c.D : 0) + (c.dv.data ? c.Dv : 0));
    Room room((turns + rows + sums) * 4 + 1024);
    Arena arena{static_cast<char*>(room.memory)};
    shared.passed = arena.take<int32_t>(turns);
    shared.delta = arena.take<float>(rows);
    shared.dk = key_sums<T>(c, c.dk, c.D, arena);
    shared.dv = key_sums<T>(c, c.dv, c.Dv, arena);
    each_slice(c, c.H, c.Tq, [&](int64_t b, int64_t h, int64_t first, int64_t count) {
        find_delta<T>(c, b, h, first, count, shared.delta);
    });
    if (c.dsinks) find_sinks(c, shared.delta);
    int64_t drawn = 0; /* Turns wants tasks begun in order, whatever the order in which threads are given work */
    parallel(c.threads, c.B * c.K * shared.chunks,
             [&](int64_t) { backward_task<T>(c, shared, __atomic_fetch_add(&drawn, 1, __ATOMIC_RELAXED)); });
    end_key_sums<T>(c, shared.dk, c.dk, c.D);
    end_key_sums<T>(c, shared.dv, c.dv, c.Dv);
}

/* dtable and ddense are added to: they come in as zeros. The others are written. */
inline void backward(const Call& c) {
    if (c.type == FLOAT32) backward_of<float>(c);
    if (c.type == BFLOAT16) backward_of<bfloat16>(c);
    if (c.type == FLOAT16) backward_of<float16>(c);
}

}  // namespace clearhead::ISA
