/* Decode: a few queries against a long cache, bound by how fast keys and values can be read.
 *
 *                      keys  0                 piece 1           piece 2           valid
 *     the rows of a    +---------------------+-----------------+-----------------+.......
 *     block: all that  |  task 0: m, l, o    |  task 1         |  task 2         |  never read
 *     share a key head +---------------------+-----------------+-----------------+.......
 *                               `------------- merged in this order, by the task that ends last
 *
 * The lanes of the vectors are numbers of a row (of forward.h they are queries, of which there are too few here):
 * each key is read once, in order, for all rows of its block, then each value. What a block sees is cut into pieces,
 * a task each; a piece is walked in stretches of at most STRETCH keys which the same rows see whole, so that there are
 * no masks, and nothing hidden is ever touched. How the keys are cut depends on the call alone, not on the threads.
 *
 *     S [rows][STRETCH]   scores of a stretch, then weights relative to exp(m), for up to four rows at a time
 *     o [row][Dv]         output of the piece so far, relative to exp(m)
 *
 * With `lengths`, the queries of sequence b are the last Tq of its lengths[b] keys: query i sits at position
 * i + lengths[b] - Tq. With `blocks`, key j of sequence b is row j % block of block blocks[b][j / block], in pools
 * (blocks, K, block, D) and (blocks, K, block, Dv). Either way the runs say what is seen, in keys of the sequence.
 */
#pragma once
#include "decode_rows.h"
#include "scores.h"
#include "softmax.h"

namespace clearhead::ISA {

constexpr int64_t TASKS = 32;                 /* that a call is cut into, if it is long enough */
constexpr int64_t SHORTEST = 256;             /* keys worth a task */
constexpr int TOGETHER = W >= 16 ? 4 : W / 4; /* rows whose sums fit the registers: more read K and V again, from L1 */

/* Whether a call is decode's: so few rows share a key head that forward.h's lanes would be empty. Measured, decode is
 * the faster one up to 12 rows on AVX-512 and AVX2, up to 6 on the baseline. Dropout, of training, is forward.h's. */
inline bool decodes(const Call& c) {
    if (c.lengths || c.blocks) return true;
    return c.dropout == 0.0f && c.Tq * (c.H / c.K) <= (W >= 8 ? 12 : 6);
}

/* One row's softmax over a piece, as softmax.h has it, the sums still spread over lanes. */
struct State {
    float m;
    int32_t at;
    vec l, rest, spread, moment;
};

/* What a row sees, and how far the walk has come. */
struct Sight {
    const int32_t *start, *stop;
    int64_t run;
};

/* A task's memory: of each row its state, its query and its output so far, padded to the step. */
struct Memory {
    State* state;
    float *q, *o;
};

/* A piece of what the rows of a block see. */
struct Piece {
    Block block;
    Sight sights[Q];
    Span seen; /* by any row */
    Memory memory;
};

inline int64_t pieces(const Call& c) {
    return most(1, least((TASKS + count_blocks(c) - 1) / count_blocks(c), c.Tk / SHORTEST));
}

inline size_t piece_bytes(const Call& c) {
    int64_t rows = least(rows_of_unit(c), Q);
    return rows * (sizeof(State) + (above(c.D, STRIDE) + above(c.Dv, STRIDE)) * 4) + 192;
}

inline Memory lay_out(const Call& c, int64_t rows, char* memory) {
    Arena arena{memory};
    State* state = arena.take<State>(rows);
    float* q = arena.take<float>(rows * above(c.D, STRIDE));
    return {state, q, arena.take<float>(rows * above(c.Dv, STRIDE))};
}

/* Task `index`'s rows: who they are and what they see. */
inline void take_rows(Piece& piece, const Call& c, int64_t index) {
    Block& block = piece.block;
    number(block, c, index);
    int64_t shift = c.lengths ? c.lengths[block.b] - c.Tk : 0;
    piece.seen = {c.Tk, 0};
    for (int64_t lane = 0; lane < block.count; ++lane) {
        int64_t i = block.query_row((int)lane), R = c.runs.R;
        block.query[lane] = c.queries ? c.queries[i] : i;
        block.position[lane] = block.query[lane] + c.past + shift;
        int64_t at = block.b * c.runs.batch + block.head[lane] * c.runs.head + i * R;
        Sight& sight = piece.sights[lane];
        sight = {c.runs.start + at, c.runs.stop + at, 0};
        while (R && sight.start[R - 1] >= sight.stop[R - 1]) --R; /* empty ones come last */
        if (!R) continue;
        piece.seen.start = least(piece.seen.start, sight.start[0]);
        piece.seen.stop = most(piece.seen.stop, sight.stop[R - 1]);
    }
}

/* The next keys, at most STRETCH, which the same rows see; false where none sees any before `stop`. */
struct Stretch {
    int64_t start, stop;
    int rows;
    int lane[Q];
};
inline bool next(Piece& piece, Stretch& stretch, int64_t stop) {
    while (stretch.stop < stop) {
        stretch.start = stretch.stop;
        stretch.stop = stop;
        stretch.rows = 0;
        for (int lane = 0; lane < piece.block.count; ++lane) {
            Sight& sight = piece.sights[lane];
            int64_t R = piece.block.c->runs.R;
            while (sight.run < R &&
                   (sight.stop[sight.run] <= stretch.start || sight.start[sight.run] >= sight.stop[sight.run]))
                ++sight.run;
            if (sight.run == R) continue;
            bool sees = sight.start[sight.run] <= stretch.start;
            if (sees) stretch.lane[stretch.rows++] = lane;
            stretch.stop = least(stretch.stop, sees ? sight.stop[sight.run] : sight.start[sight.run]);
        }
        if (!stretch.rows) continue;
        stretch.stop = least(stretch.stop, stretch.start + STRETCH);
        return true;
    }
    return false;
}

/* Where the keys and values of a stretch lie; the last one stands in for those up to a multiple of W. */
template <class T>
struct Places {
    const T *k[STRETCH], *v[STRETCH];
};
template <class T>
inline void locate(Places<T>& places, const Block& block, const Stretch& stretch) {
    const Call& c = *block.c;
    int64_t count = stretch.stop - stretch.start, left = 0;
    const T *k = nullptr, *v = nullptr;
    for (int64_t x = 0; x < count; ++x, --left, k += c.k.row, v += c.v.row) {
        if (!left) {
            int64_t b = block.b, j = stretch.start + x;
            if (c.blocks) b = c.blocks[b * c.blocks_row + j / c.block], j %= c.block;
            k = row_at<T>(c.k, b, block.kv, j);
            v = row_at<T>(c.v, b, block.kv, j);
            left = c.blocks ? c.block - j : count;
        }
        places.k[x] = k, places.v[x] = v;
    }
    for (int64_t x = count; x < above(count, W); ++x) places.k[x] = k - c.k.row, places.v[x] = v - c.v.row;
}

/* From products to scores of one row, lanes being keys: scale, softcap and bias; -inf beyond the stretch. */
inline void finish_row(const Block& block, int lane, const Stretch& stretch, float* s) {
    const Call& c = *block.c;
    int64_t count = stretch.stop - stretch.start;
    for (int64_t x = 0; x < count; x += W) store(s + x, load(s + x) * c.scale);
    if (c.softcap != 0.0f)
        for (int64_t x = 0; x < count; x += W) store(s + x, tanh(load(s + x) / c.softcap) * c.softcap);
    if (c.bias.table) {
        int64_t back = block.position[lane] - c.past + c.Tk - 1 - stretch.start;
        const float* entries = block.table(c.bias.table, lane) + back;
        for (int64_t x = 0; x < count; ++x) s[x] += entries[-x];
    }
    if (c.bias.dense) {
        int64_t at = block.b * c.bias.batch + block.head[lane] * c.bias.dense_head + block.query[lane] * c.bias.row +
                     stretch.start * c.bias.column;
        auto add = [&](auto type) {
            auto entries = static_cast<decltype(type)>(c.bias.dense) + at;
            for (int64_t x = 0; x < count; ++x) s[x] += widen(entries[x * c.bias.column]);
        };
        if (c.bias.type == FLOAT32) add((const float*)nullptr);
        if (c.bias.type == BFLOAT16) add((const bfloat16*)nullptr);
        if (c.bias.type == FLOAT16) add((const float16*)nullptr);
    }
    for (int64_t x = count; x < above(count, W); ++x) s[x] = -INF;
}

/* Scores to weights relative to exp(m), in place; returns what all that came before is to be multiplied by. */
template <bool probe>
inline float weigh(State& state, const Stretch& stretch, int64_t position, float* s) {
    int64_t count = stretch.stop - stretch.start;
    vec high = broadcast(-INF);
    for (int64_t x = 0; x < count; x += W) high = max(load(s + x), high);
    float old = state.m, top = highest(high) > old ? highest(high) : old;
    float base = top == -INF ? 0.0f : top, shrink = 1;
    if (top > old) {
        shrink = old == -INF ? 0.0f : __builtin_expf(old - top);
        state.m = top;
        if constexpr (probe) {
            float had = old == -INF ? 0.0f : 1.0f; /* what was the peak joins the rest */
            float fall = old == -INF ? 0.0f : top - old;
            vec one = lanes() == 0 ? broadcast(had) : vec{};
            state.spread = shrink * state.spread + shrink * fall * (state.rest + one);
            state.rest = shrink * (state.rest + one);
            state.moment *= shrink;
            int64_t x = 0;
            while (s[x] != top) ++x;
            state.at = (int32_t)(stretch.start + x);
        }
        state.l *= shrink;
    }
    for (int64_t x = 0; x < count; x += W) {
        vec below = (load(s + x) - base) * LOG2E;
        below = max(broadcast(-200.0f), below);
        vec w = exp2(below);
        store(s + x, w);
        state.l += w;
        if constexpr (probe) {
            ivec key = lanes() + (int32_t)(stretch.start + x);
            state.rest += key != state.at ? w : vec{};
            state.spread = fma(w, below * -LN2, state.spread);
            state.moment = fma(w, abs(to_float(key - (int32_t)position)), state.moment);
        }
    }
    return shrink;
}

/* A stretch, for `rows` of the rows that see it; `ahead` is where the next one lies. */
template <class T, bool probe, int rows>
inline void attend(Piece& piece, const Stretch& stretch, const int* lane, const Places<T>& at, const Places<T>& ahead) {
    const Call& c = *piece.block.c;
    const Memory& memory = piece.memory;
    int64_t D = above(c.D, STRIDE), Dv = above(c.Dv, STRIDE), count = stretch.stop - stretch.start;
    alignas(64) float S[rows * STRETCH];
    float *q[rows], *o[rows];
    for (int r = 0; r < rows; ++r) q[r] = memory.q + lane[r] * D, o[r] = memory.o + lane[r] * Dv;
    for (int64_t x = 0; x < count; x += W / rows) score_keys<rows>(q, at.k + x, at.v + x, c.D, S + x);
    for (int r = 0; r < rows; ++r) {
        float* s = S + r * STRETCH;
        finish_row(piece.block, lane[r], stretch, s);
        float shrink = weigh<probe>(memory.state[lane[r]], stretch, piece.block.position[lane[r]], s);
        if (shrink == 1.0f) continue;
        for (int64_t d = 0; d < Dv; d += W) store(o[r] + d, load(o[r] + d) * shrink);
    }
    add_values<rows>(o, at.v, ahead.k, count, c.Dv, S);
}

/* The softmax and the output of a block's rows over piece `number` of `of`. */
template <class T, bool probe>
inline void attend_piece(Piece& piece, int64_t number, int64_t of) {
    const Call& c = *piece.block.c;
    int64_t D = above(c.D, STRIDE), Dv = above(c.Dv, STRIDE);
    for (int lane = 0; lane < piece.block.count; ++lane) {
        piece.memory.state[lane] = {-INF, -1, vec{}, vec{}, vec{}, vec{}};
        const T* q = row_at<T>(c.q, piece.block.b, piece.block.head[lane], piece.block.query_row(lane));
        float* panel = piece.memory.q + lane * D;
        memset(panel, 0, D * 4);
        for (int64_t d = 0; d < c.D; ++d) panel[place<T>(d)] = widen(q[d]);
    }
    memset(piece.memory.o, 0, piece.block.count * Dv * 4);
    int64_t keys = piece.seen.stop - piece.seen.start, each = most(above((keys + of - 1) / of, STRETCH), SHORTEST);
    int64_t start = piece.seen.start + number * each, stop = least(start + each, piece.seen.stop);
    Stretch stretch{start, start, 0, {}}, following;
    Places<T> places[2] = {};
    bool more = next(piece, stretch, stop);
    if (more) locate(places[0], piece.block, stretch);
    for (int turn = 0; more; turn = !turn, stretch = following) {
        Places<T>&at = places[turn], &ahead = places[!turn];
        following = stretch;
        more = next(piece, following, stop);
        if (more) locate(ahead, piece.block, following);
        int r = 0;
        if constexpr (TOGETHER >= 4)
            for (; r + 4 <= stretch.rows; r += 4) attend<T, probe, 4>(piece, stretch, stretch.lane + r, at, ahead);
        if constexpr (TOGETHER >= 2)
            for (; r + 2 <= stretch.rows; r += 2) attend<T, probe, 2>(piece, stretch, stretch.lane + r, at, ahead);
        for (; r < stretch.rows; ++r) attend<T, probe, 1>(piece, stretch, stretch.lane + r, at, ahead);
    }
}

/* Adds to a row's statistics those of a piece; the lower of the two peaks joins the rest. */
inline void join(Softmax& total, int lane, const State& state) {
    struct Held {
        float m, rest, spread, moment;
    };
    Held before{total.m[lane], total.rest[lane], total.spread[lane], total.moment[lane]};
    Held more{state.m, sum(state.rest), sum(state.spread), sum(state.moment)};
    bool higher = more.m > before.m;
    Held high = higher ? more : before, low = higher ? before : more;
    if (low.m > -INF) {
        float fall = high.m - low.m, shrink = __builtin_expf(-fall);
        high.spread += shrink * low.spread + shrink * fall * (low.rest + 1);
        high.rest += shrink * (low.rest + 1);
        high.moment += shrink * low.moment;
    }
    total.m[lane] = high.m, total.rest[lane] = high.rest;
    total.spread[lane] = high.spread, total.moment[lane] = high.moment;
    if (higher) total.at[lane] = state.at;
}

/* Merges the pieces of a block, `of` of them, which lie in `memory` one after the other, and writes its rows. */
template <class T, bool probe>
inline void finish_block(const Block& block, char* memory, int64_t of) {
    const Call& c = *block.c;
    Softmax total;
    begin(total);
    auto part = [&](int64_t n) { return lay_out(c, block.count, memory + n * piece_bytes(c)); };
    for (int lane = 0; lane < block.count; ++lane) {
        for (int64_t n = 0; n < of; ++n) total.m[lane] = __builtin_fmaxf(total.m[lane], part(n).state[lane].m);
        float base = total.m[lane] == -INF ? 0.0f : total.m[lane];
        for (int64_t n = 0; n < of; ++n)
            total.l[lane] += sum(part(n).state[lane].l) * __builtin_expf(part(n).state[lane].m - base);
        if constexpr (probe) {
            total.m[lane] = -INF;
            for (int64_t n = 0; n < of; ++n) join(total, lane, part(n).state[lane]);
        }
    }
    float top[Q]; /* end() joins a sink to state.shrink, and leaves state.m */
    memcpy(top, total.m, sizeof top);
    end(total, block);
    for (int lane = 0; lane < block.count; ++lane) {
        float base = top[lane] == -INF ? 0.0f : top[lane];
        float o[512] = {}; /* Dv is at most that */
        for (int64_t n = 0; n < of; ++n) {
            vec factor = broadcast(__builtin_expf(part(n).state[lane].m - base) * total.shrink[lane]);
            const float* of_piece = part(n).o + lane * above(c.Dv, STRIDE);
            for (int64_t d = 0; d < above(c.Dv, STRIDE); d += W)
                store(o + d, fma(load(of_piece + d), factor, load(o + d)));
        }
        T* out = const_cast<T*>(row_at<T>(c.out, block.b, block.head[lane], block.query_row(lane)));
        for (int64_t d = 0; d < c.Dv; d += W) {
            float turned[W];
            for (int64_t x = 0; x < W; ++x) turned[x] = o[place<T>(d + x)];
            store_part(out + d, load(turned), c.Dv - d);
        }
    }
}

template <class T, bool probe>
inline void decode_of(const Call& c) {
    int64_t blocks = count_blocks(c);
    if (!blocks) return;
    int64_t of = pieces(c);
    size_t bytes = piece_bytes(c);
    /* One piece a block is finished in its thread's own memory; several are merged, in memory that all share. */
    char* shared = of > 1 ? static_cast<char*>(clearhead_scratch(blocks * (of * bytes + 4))) : nullptr;
    int32_t* ended = shared ? reinterpret_cast<int32_t*>(shared + blocks * of * bytes) : nullptr;
    if (shared) memset(ended, 0, blocks * 4);
    parallel(c.threads, blocks * of, [&](int64_t t) {
        char* memory = shared ? shared + t / of * of * bytes : static_cast<char*>(clearhead_scratch(bytes));
        Piece piece;
        take_rows(piece, c, t / of);
        piece.memory = lay_out(c, piece.block.count, memory + t % of * bytes);
        attend_piece<T, probe>(piece, t % of, of);
        if (shared && __atomic_add_fetch(&ended[t / of], 1, __ATOMIC_ACQ_REL) < of) return;
        finish_block<T, probe>(piece.block, memory, of);
    });
}

inline void decode(const Call& c) {
    if (c.type == FLOAT32) c.probe.peak ? decode_of<float, true>(c) : decode_of<float, false>(c);
    if (c.type == BFLOAT16) c.probe.peak ? decode_of<bfloat16, true>(c) : decode_of<bfloat16, false>(c);
    if (c.type == FLOAT16) c.probe.peak ? decode_of<float16, true>(c) : decode_of<float16, false>(c);
}

}  // namespace clearhead::ISA
