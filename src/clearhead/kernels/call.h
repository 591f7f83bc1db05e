/* One call of a kernel: what Python hands over (attend/library.py mirrors it, field by field).
 *
 * Strides count elements; the last dimension of every tensor is contiguous. Sizes are named as everywhere:
 *
 *     q (B, H, Tq, D)    k (B, K, Tk, D)    v (B, K, Tk, Dv)    out (B, H, Tq, Dv)    rows (B, H, Tq)
 *
 * "rows" are float32 and contiguous. What is not wanted is a null pointer.
 */
#pragma once
#include <stdint.h>

enum Type { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

/* A tensor of four dimensions; a stride of 0 shares what lies there. */
typedef struct {
    void* data;
    int64_t batch, head, row;
} Tensor;

/* Who sees whom: query i of (b, h) sees the keys of its R half-open intervals [start, stop). */
typedef struct {
    const int32_t *start, *stop;
    int64_t batch, head; /* strides; a row is R apart */
    int64_t R;
} Runs;

/* What is added to the scores: by distance (table), or by pair (dense), or nothing. */
typedef struct {
    /* table[b * table_batch + h * head + i - j + Tk - 1]: one entry a distance, (B or 1, H or 1, Tq + Tk - 1), so that
     * the queries of a vector, which follow one another, read entries that do too. */
    const float* table;
    int64_t table_batch, head;
    /* dense: any of the types, any stride 0. */
    const void* dense;
    int64_t batch, dense_head, row, column;
    int32_t type;
} Bias;

/* The statistics of each row, each (B, H, Tq): all of them or none. */
typedef struct {
    float *entropy, *peak, *distance, *max_score;
    int32_t* peak_at;
} Probe;

typedef struct {
    int64_t B, H, K, Tq, Tk, D, Dv;
    int32_t type;    /* of q, k, v and out */
    int32_t threads; /* how many may work; results do not depend on it */
    Tensor q, k, v, out;
    Runs runs;
    Bias bias;
    const int64_t* queries; /* (Tq): which query of the whole call each row is; null where row r is query r */
    int64_t past;           /* query i sits at position i + past among the keys */
    float scale, softcap;   /* softcap 0: none */
    float dropout;
    uint64_t seed;
    const float* sinks; /* (H) */
    float* lse;         /* rows: the natural log-sum-exp, a sink's logit included */
    float *top, *sum;   /* rows: weights are exp(s - top) / sum; exact where s - lse would have lost log(sum) */
    Probe probe;

    /* decode: a cache longer than what is valid, or kept in blocks */
    const int32_t*
        lengths; /* (B): valid keys; query i of b then sits at i + lengths[b] - Tq; the runs say what it sees */
    const int32_t*
        blocks; /* (B, blocks_row): key j of b is row j % block of block blocks[b][j / block]; k and v are
                 * pools (blocks, K, block, D or Dv), their batch stride a block's; Tk = blocks_row * block */
    int64_t block, blocks_row;

    /* backward: dout and what comes of it */
    Tensor dout;
    const float* dlse; /* rows */
    Tensor dq, dk, dv; /* of the call's type */
    float* dsinks;     /* (H) */
    float* dtable;     /* (B or 1, H or 1, Tq + Tk - 1), of bias.table's strides; zeroed by the caller */
    float* ddense;     /* contiguous over B, H, Tq, Tk, a size being 1 where bias.dense's stride is 0; zeroed too */

    /* a second pass over the scores, with probe.max_score and probe.peak known */
    float* received; /* (B, H, Tk) */
    float* map;      /* (B, H, map_rows, map_columns): mean weights of the cells of rows x columns */
    int64_t column_start, column_stop, map_rows, map_columns;
    float* top_weights; /* (B, H, Tq, top_k), heaviest first */
    int32_t* top_keys;
    int64_t top_k;

    /* the same, of keys that are named, for each of several roles */
    int64_t roles;
    const int32_t* targets;       /* (roles, B, Tq): a key for each query */
    float* toward;                /* (roles, B, H, Tq): its weight, whether the query sees it or not */
    const int32_t *order, *named; /* (Tq), (Tk): the runs of row r are those of query order[r], its key j is named[j] */
    float* held; /* (roles, B, H, Tq): what a query's keys weigh of the first Tk / roles of the list, of the next ... */

    const float* marks; /* (marked, Tk) */
    float* on;          /* (marked, B, H, Tq): sum over j of marks[j] w[i, j] */
    int64_t marked;
    float* fewest; /* (B, H, Tq): how many keys it takes to hold a share of the row */
    float share;
} Call;
