/* What a layer does with each token by itself: what Python hands over (nn/native.py mirrors it, field by field).
 *
 * Rows are tokens. The last dimension of everything is contiguous; what is not wanted is a null pointer.
 */
#pragma once
#include "call.h"

enum Gate { SILU = 0, GELU_TANH = 1, QUICK_GELU = 2 };

typedef struct {
    int64_t rows, in, out;
    int32_t type; /* of all tensors, but for the angles */
    int32_t threads;
    const void *x, *weight, *bias;
    void* y;
    int64_t x_row, y_row; /* numbers from one row to the next */
    float eps, offset;    /* of a norm */
    int32_t gate;
} Layer;

/* Heads turned by their positions: x and y (B, heads, T, D), cos and sin (B or 1, T, R), float32. */
typedef struct {
    int64_t B, heads, T, D, R;
    int32_t type, threads;
    Tensor x, y;
    const float *cos, *sin;
    int64_t angles_batch, angles_row;
} Turn;

/* Tokens through a whole block: z = x + attention(norm(x)), y = z + feed_forward(norm(z)), x and y (B, T, width).
 *
 * Their keys and values are written to the cache k, v (B, kv_heads, ..., head_width) behind the `past` that every
 * sequence has there.
 */
typedef struct {
    int64_t B, T, width, heads, kv_heads, head_width, R, hidden, past, window; /* window 0: none */
    int32_t type, threads, gate;
    float eps, offset, scale, softcap; /* softcap 0: none */
    const void *x, *attention_norm, *qkv, *qkv_bias, *out, *out_bias;
    const void *feed_forward_norm, *up, *up_bias, *down, *down_bias;
    void *y, *memory; /* memory: B T (width + 2 (heads + kv_heads) head_width) + 3 hidden chunk numbers of the type */
    int64_t chunk;    /* tokens that go through the feed-forward at a time */
    int32_t *start, *stop, *lengths; /* (T), (T), (B), to be filled: which keys each token sees */
    Tensor k, v;
    const float *cos, *sin; /* (T, R), as of Turn; R 0: nothing is turned */
    int64_t angles_row;
} Step;
