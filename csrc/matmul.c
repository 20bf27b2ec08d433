/* y = x wT + b, and its gradients dx = dy w, dw += dyT x, db += column sums of dy.
 *
 * All three products are one tile (tile.h) under two drivers:
 *   product()      y and dx: rows over threads, B packed into panels of NR columns;
 *   product_dw()   dw: output tiles over threads, the sum runs over the rows of the batch.
 * Both follow the same three loops: panels of NR columns, blocks along the sum, tiles of MR rows (product_dw() has
 * blocks outside panels, and groups of tiles outside both). A block's sum is
 * formed in registers and then added to those before it: so the error of a sum of N grows with N / DEPTH + DEPTH and
 * not with N (sums over gpt2's 50,257 symbols need that), and a packed piece of B, DEPTH x NR, stays in the
 * first-level cache. In dw each block reads and writes all of dw, so there the blocks are longer. Only a sum over a large
 * vocabulary is longer than LONG: its part of A is used by every panel while it is still in a cache. */
#include "kernels.h"
#include "tile.h"

enum { ROWS = 256, GROUP = 32 }; /* of a block in dw (model.logits_rows knows it); tiles in a group there */
enum { LONG = 32 * DEPTH };      /* so much of a sum is done for every panel before the next part of it */

/* panel (depth, NR) = B(p, j) = b[p * b_row + j * b_col], columns beyond `columns` zero up to a whole
 * vector. One of b_row and b_col is 1. */
static void pack(real *panel, const real *b, int64_t b_row, int64_t b_col, int64_t depth,
                 int64_t columns) {
    if (b_col != 1) pack_transposed(panel, NR, b, b_col, columns, depth, 1);
    else
        for (int64_t p = 0; p < depth; p++)
            for (int64_t j = 0; j < columns; j += VL)
                store(panel + p * NR + j, load_part(b + p * b_row + j, columns - j));
}

/* Rows first..last-1 of out (N,K) = a (N,C) B (C,K) + bias + residual, B(p,j) = b[p * b_row + j * b_col]. */
static void product(real *out, const real *a, const real *b, int64_t b_row, int64_t b_col, const real *bias,
                    const real *residual, int64_t C, int64_t K, int64_t first, int64_t last) {
    real panel[DEPTH * NR] __attribute__((aligned(64)));
    for (int64_t s = 0; s < C && first < last; s += LONG)
        for (int64_t k = 0; k < K; k += NR) {
            int64_t columns = K - k < NR ? K - k : NR;
            for (int64_t c = s; c < C && c < s + LONG; c += DEPTH) {
                int64_t depth = C - c < DEPTH ? C - c : DEPTH;
                pack(panel, b + c * b_row + k * b_col, b_row, b_col, depth, columns);
                for (int64_t n = first; n < last; n += MR) {
                    int mr = last - n < MR ? (int)(last - n) : MR;
                    real *y = out + n * K + k;
                    const real *from = bias && c == 0 ? bias + k : 0;
                    const real *plus = c > 0 ? y : residual ? residual + n * K + k : 0;
                    tile(mr, columns, y, K, from, 0, plus, K, depth, a + n * C + c, C, 1, panel, NR);
                }
            }
        }
}

/* Tiles first..last-1 of dw (K,C) += dyT (K,N) x (N,C). GROUP tiles along K form a group: so many columns of a block of
 * dy stay in the second-level cache until every panel (NR columns of C) has used them. In the group that begins with
 * tile g and is `wide` tiles wide, tile g + t of panel q has number g * panels + q * wide + t. Blocks come in the
 * order of the rows. */
static void product_dw(real *dw, const real *dy, const real *x, int64_t N, int64_t C, int64_t K, int64_t first,
                       int64_t last) {
    real panel[ROWS * NR] __attribute__((aligned(64)));
    int64_t tiles = (K + MR - 1) / MR, panels = (C + NR - 1) / NR;
    for (int64_t g = first / (GROUP * panels) * GROUP; g * panels < last; g += GROUP) {
        int64_t wide = tiles - g < GROUP ? tiles - g : GROUP;
        int64_t from = first > g * panels ? first - g * panels : 0, to = last - g * panels;
        if (to > wide * panels) to = wide * panels;
        for (int64_t n = 0; n < N; n += ROWS) {
            int64_t depth = N - n < ROWS ? N - n : ROWS;
            for (int64_t q = from / wide; q * wide < to; q++) {
                int64_t columns = C - q * NR < NR ? C - q * NR : NR;
                int64_t t0 = from > q * wide ? from - q * wide : 0, t1 = to < (q + 1) * wide ? to - q * wide : wide;
                pack(panel, x + n * C + q * NR, C, 1, depth, columns);
                for (int64_t t = g + t0; t < g + t1; t++) {
                    int mr = K - t * MR < MR ? (int)(K - t * MR) : MR;
                    real *out = dw + t * MR * C + q * NR;
                    tile(mr, columns, out, C, 0, 0, out, C, depth, dy + n * K + t * MR, 1, K, panel, NR);
                }
            }
        }
    }
}

/* `columns` columns of db += column sums of dy (N rows of K), in blocks of ROWS rows as above. */
INLINE void sums_of(const int nv, real *db, const real *dy, int64_t N, int64_t K, int64_t columns) {
    for (int64_t n = 0; n < N; n += ROWS) {
        vec block[NV] = {0};
        for (int64_t i = n; i < N && i < n + ROWS; i++)
            UNROLL for (int j = 0; j < nv; j++) block[j] += load_part(dy + i * K + j * VL, columns - j * VL);
        UNROLL for (int j = 0; j < nv; j++)
            store_part(db + j * VL, load_part(db + j * VL, columns - j * VL) + block[j], columns - j * VL);
    }
}
/* Columns first..last-1 of db (K): NV vectors side by side where there are as many. */
static void sums_db(real *db, const real *dy, int64_t N, int64_t K, int64_t first, int64_t last) {
    int64_t k = first;
    for (; k + NR <= last; k += NR) sums_of(NV, db + k, dy + k, N, K, NR);
    for (; k < last; k += VL) sums_of(1, db + k, dy + k, N, K, last - k);
}

void FN(matmul_forward)(real *y, const real *x, const real *w, const real *b, const real *residual,
                        int64_t N, int64_t C, int64_t K, int threads) {
    if (N < 2 * MR || N * C * K < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(N, MR, threads, thread, &first, &last);
        product(y, x, w, 1, C, b, residual, C, K, first, last); /* B = wT */
    }
}

void FN(matmul_backward)(real *dx, real *dw, real *db, const real *dy, const real *x, const real *w,
                         int64_t N, int64_t C, int64_t K, int threads) {
    int64_t tiles = (K + MR - 1) / MR, panels = (C + NR - 1) / NR;
    if (N * C * K < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(N, MR, threads, thread, &first, &last);
        if (dx) product(dx, dy, w, C, 1, 0, 0, K, C, first, last); /* B = w, the sum runs over K */
        share(K, VL, threads, thread, &first, &last);
        if (db) sums_db(db, dy, N, K, first, last);
        share(tiles * panels, 1, threads, thread, &first, &last);
        if (dw) product_dw(dw, dy, x, N, C, K, first, last);
    }
}
