/* Tokens through a whole block in a single call, as calls from Python take longer than most of its kernels. */
#pragma once
#include "decode.h"
#include "forward.h"
#include "linear.h"
#include "rows.h"

namespace clearhead::ISA {

/* Turns q where it lies, turns k into the cache, copies v there, and attends from q to all that it holds. */
template <class T>
inline void attend_to_cache(const Step& c, T* qkv, T* out) {
    const int64_t D = c.head_width, inner = c.heads * D, row = inner + 2 * c.kv_heads * D, Tk = c.past + c.T;
    auto projected = [&](int64_t head) { return Tensor{qkv + head * D, c.T * row, D, row}; };
    auto behind = [&](Tensor cache) {
        cache.data = static_cast<T*>(cache.data) + c.past * cache.row;
        return cache;
    };
    auto turned = [&](int64_t heads, int64_t R, const Tensor& from, const Tensor& to) {
        turn(Turn{c.B, heads, c.T, D, R, c.type, c.threads, from, to, c.cos, c.sin, 0, c.angles_row});
    };
    const Tensor q = projected(0);
    turned(c.heads, c.R, q, q);
    turned(c.kv_heads, c.R, projected(c.heads), behind(c.k));
    turned(c.kv_heads, 0, projected(c.heads + c.kv_heads), behind(c.v));

    for (int64_t t = 0; t < c.T; ++t) {
        c.stop[t] = (int32_t)(c.past + t + 1);
        c.start[t] = c.window && c.stop[t] > c.window ? c.stop[t] - (int32_t)c.window : 0;
    }
    for (int64_t b = 0; b < c.B; ++b) c.lengths[b] = (int32_t)Tk;
    Call call = {};
    call.B = c.B, call.H = c.heads, call.K = c.kv_heads, call.Tq = c.T, call.Tk = Tk, call.D = call.Dv = D;
    call.type = c.type, call.threads = c.threads, call.scale = c.scale, call.softcap = c.softcap;
    call.q = q, call.k = c.k, call.v = c.v, call.out = Tensor{out, c.T * inner, D, inner};
    call.runs = Runs{c.start, c.stop, 0, 0, 1}, call.past = c.past;
    if (c.T > FEW_ROWS) return forward(call);
    call.lengths = c.lengths;
    decode(call);
}

template <class T>
inline void step_of(const Step& c) {
    const int64_t rows = c.B * c.T, E = c.width, inner = c.heads * c.head_width,
                  all = inner + 2 * c.kv_heads * c.head_width;
    T *memory = static_cast<T*>(c.memory), *y = static_cast<T*>(c.y);
    auto take = [&](int64_t numbers) {
        T* piece = memory;
        memory += numbers;
        return piece;
    };
    auto layer = [&](int64_t n, const void* from, const void* weight, const void* bias, int64_t in, int64_t out,
                     T* to) {
        return Layer{n, in, out, c.type, c.threads, from, weight, bias, to, in, out, c.eps, c.offset, c.gate};
    };
    auto add = [&](int64_t n, const T* a, const T* b, T* to) {
        each_row(c.threads, n, E, [&](int64_t r) {
            for (int64_t i = r * E; i < (r + 1) * E; i += W) {
                int64_t left = (r + 1) * E - i;
                store_part(to + i, load_part(a + i, left) + load_part(b + i, left), left);
            }
        });
    };
    T *made = take(rows * E), *qkv = take(rows * all), *attended = take(rows * inner);
    T *both = take(c.chunk * 2 * c.hidden), *gated = take(c.chunk * c.hidden);
    rms_norm(layer(rows, c.x, c.attention_norm, nullptr, E, E, made));
    linear(layer(rows, made, c.qkv, c.qkv_bias, E, all, qkv));
    attend_to_cache(c, qkv, attended);
    linear(layer(rows, attended, c.out, c.out_bias, inner, E, made));
    add(rows, static_cast<const T*>(c.x), made, y);
    for (int64_t r = 0; r < rows; r += c.chunk, y += c.chunk * E) {
        int64_t n = rows - r < c.chunk ? rows - r : c.chunk;
        rms_norm(layer(n, y, c.feed_forward_norm, nullptr, E, E, made));
        linear(layer(n, made, c.up, c.up_bias, E, 2 * c.hidden, both));
        gate(layer(n, both, nullptr, nullptr, 2 * c.hidden, c.hidden, gated));
        linear(layer(n, gated, c.down, c.down_bias, c.hidden, E, made));
        add(n, y, made, y);
    }
}

inline void step(const Step& c) {
    if (c.type == BFLOAT16) return step_of<bfloat16>(c);
    if (c.type == FLOAT16) return step_of<float16>(c);
    step_of<float>(c);
}

}  // namespace clearhead::ISA
