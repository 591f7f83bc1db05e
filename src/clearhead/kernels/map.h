/* A picture of the weights: each cell the mean of its pairs, hidden ones counted as 0.
 *
 *              columns of cells           Row i of Tq lies in row i R / Tq of the R = map_rows rows of cells; a key of
 *           +-----+-----+-----+           [column_start, column_stop) likewise.
 *     block |     |     |     |
 *           |.....|.....|.....|  cells    A block sums over the keys of each cell, vector by vector, into
 *           |     |     |     |           `strip` [columns][Q], then over the lanes of each row of cells into
 *           +-----+-----+-----+           `part` [cells it meets][columns]. Blocks that meet in a row of cells each
 *                                         have a part of their own, and are added in order.
 *
 * Rows are counted through all heads of a unit, and so are rows of cells.
 */
#pragma once
#include "weights.h"

namespace clearhead::ISA {

/* Where cell x of `cells` over n begins: the least i with i * cells / n = x. */
inline int64_t cell_start(int64_t x, int64_t n, int64_t cells) { return (x * n + cells - 1) / cells; }

/* The row of cells of row r of a unit. */
inline int64_t cell_row(const Call& c, int64_t r) { return r / c.Tq * c.map_rows + r % c.Tq * c.map_rows / c.Tq; }

/* Block x of a unit has its part here: no two of them meet in more than one row of cells. */
inline int64_t part_row(const Call& c, int64_t x) { return cell_row(c, x * Q) + x; }

/* `starts` says where each column of cells begins, counted from column_start. */
inline void add_to_strip(const Pass& pass, int n, const int64_t* starts, float* strip) {
    const Call& c = *pass.block.c;
    Weigh weigh(pass, n);
    int64_t across = c.column_stop - c.column_start;
    int64_t from = pass.tile.start - c.column_start; /* the tile's first key, counted likewise */
    int64_t j = most(pass.seen[n].start, -from), stop = least(pass.seen[n].stop, across - from);
    if (j >= stop) return;
    for (int64_t cell = (from + j) * c.map_columns / across; j < stop; ++cell) {
        vec sum = {};
        for (int64_t end = least(stop, starts[cell + 1] - from); j < end; ++j) sum += weigh(j);
        float* s = strip + cell * Q + n * W;
        store(s, load(s) + sum);
    }
}

/* row(lane)[x] += strip[x][lane], for W lanes; null rows are left out. */
inline void add_to_rows(const float* strip, int64_t columns, float* const* rows) {
    for (int64_t x = 0; x < columns; x += W) {
        int64_t some = least(W, columns - x);
        vec square[W];
        for (int64_t y = 0; y < W; ++y) square[y] = y < some ? load(strip + (x + y) * Q) : vec{};
        transpose(square);
        for (int i = 0; i < W; ++i)
            if (rows[i]) store_part(rows[i] + x, load_part(rows[i] + x, some) + square[i], some);
    }
}

inline void map_block(const Call& c, int64_t index, const int64_t* starts, float* part) {
    size_t strip_bytes = c.map_columns * Q * 4;
    Arena arena{static_cast<char*>(clearhead_scratch(pass_bytes(c) + strip_bytes))};
    float* strip = arena.take<float>(c.map_columns * Q);
    memset(strip, 0, strip_bytes);
    Pass& pass = begin_pass(c, index, {c.column_start, c.column_stop}, arena);
    const Block& block = pass.block;
    while (next_tile(pass))
        for (int n = 0; n < block.vectors; ++n) add_to_strip(pass, n, starts, strip);
    int64_t first = cell_row(c, block.first);
    for (int n = 0; n < block.vectors; ++n) {
        float* rows[W];
        for (int i = 0; i < W; ++i) {
            int64_t lane = n * W + i;
            rows[i] = lane < block.count ? part + (cell_row(c, block.first + lane) - first) * c.map_columns : nullptr;
        }
        add_to_rows(strip + n * W, c.map_columns, rows);
    }
}

/* Adds the parts of a unit and divides by how many pairs each cell has. */
inline void finish_map(const Call& c, const int64_t* starts, const float* parts, float* picture) {
    int64_t columns = c.map_columns, rows = heads_of_unit(c) * c.map_rows;
    memset(picture, 0, rows * columns * 4);
    for (int64_t x = 0; x < blocks_of_unit(c); ++x) {
        int64_t first = cell_row(c, x * Q), last = cell_row(c, least((x + 1) * Q, rows_of_unit(c)) - 1);
        const float* part = parts + part_row(c, x) * columns;
        for (int64_t y = 0; y < (last + 1 - first) * columns; ++y) picture[first * columns + y] += part[y];
    }
    for (int64_t y = 0; y < rows; ++y) {
        int64_t of_head = y % c.map_rows;
        float high = (float)(cell_start(of_head + 1, c.Tq, c.map_rows) - cell_start(of_head, c.Tq, c.map_rows));
        for (int64_t x = 0; x < columns; ++x) picture[y * columns + x] /= high * (float)(starts[x + 1] - starts[x]);
    }
}

inline void map(const Call& c) {
    int64_t blocks = blocks_of_unit(c), cells = heads_of_unit(c) * c.map_rows;
    int64_t size = (cells + blocks) * c.map_columns; /* of the parts of one unit */
    float* parts = zeros<float>(c.B * units(c) * size);
    int64_t* starts = zeros<int64_t>(c.map_columns + 1);
    for (int64_t x = 0; x <= c.map_columns; ++x)
        starts[x] = cell_start(x, c.column_stop - c.column_start, c.map_columns);
    parallel(c.threads, count_blocks(c), [&](int64_t t) {
        map_block(c, t, starts, parts + t / blocks * size + part_row(c, t % blocks) * c.map_columns);
    });
    parallel(c.threads, c.B * units(c),
             [&](int64_t t) { finish_map(c, starts, parts + t * size, c.map + t * cells * c.map_columns); });
    free(parts);
    free(starts);
}

}  // namespace clearhead::ISA
