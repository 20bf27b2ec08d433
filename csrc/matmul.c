/* y = x wT + b [+ residual], and its gradients dx = dy w, dw += dyT x, db += column sums of dy.
 *
 * All three products run on one tile (tile.h), under two drivers. multiply_rows() computes y and
 * dx; the threads share the rows. add_dw() computes dw; its sum runs over the rows, so the threads
 * share the tiles of dw. These are their loops, the outermost first, with the sizes named as in
 * BLIS (Van Zee and van de Geijn, BLIS: A Framework for Rapidly Instantiating BLAS Functionality,
 * 2015):
 *
 *     multiply_rows()                             add_dw()
 *
 *     KC_OUTER of the sum                         MC rows of dw
 *       NR columns                                  KC_DW of the sum
 *         KC of the sum: pack B (KC,NR)               NR columns: pack B (KC_DW,NR)
 *           MR rows: tile (MR,NR)                       MR rows: tile (MR,NR)
 *
 * KC is the length of a block of the sum. A block is summed in registers and then added to the sum
 * of the blocks before it. So the error of a sum of n terms grows with n / KC + KC and not with n
 * (sums over gpt2's 50,257 symbols need that). The packed panel stays in the first-level cache, or
 * in bf16, which reads half as many bytes for as many products, in the second.
 *
 * KC_DW is the length of a block of the sum in dw. Each block reads and writes all of dw, so these
 * blocks are longer. Logits are kept in chunks of a multiple of KC_DW rows (logits_rows in
 * nn/shapes.py), so that the chunks change no bit.
 *
 * KC_OUTER cuts the longest sums, those over a large vocabulary, into parts. One part is summed for
 * all panels before the next part begins, so the columns of A that it reads stay in a cache.
 *
 * MC is a number of columns of dy. KC_DW rows of them stay in the second-level cache until all
 * panels have used them. multiply_rows() has no MC: it takes all rows of the thread. NC, the number
 * of columns of B that are packed at a time, is NR in both.
 *
 * In bf16 the tile reads pairs (factors.h), which are made where a block is first touched: those of
 * B as it is packed, and those of A once for all panels that read them, KC_OUTER terms of a row in
 * multiply_rows() and a block of KC_DW rows and MC columns in add_dw(). KC, KC_OUTER and KC_DW are
 * numbers of terms, so a panel has half as many rows in bf16. */
#include "kernels.h"
#include "tile.h"

enum { KC_OUTER = 3072, KC_DW = 256 * TERMS, MC = 32 * MR };

/* The factors of A for add_dw(): those of rows 0..depth-1 of dy, for sums down its columns. Reals
 * are read in place. Pairs are written to block (KC_DW / TERMS,MC). Returns where factor 0 is; *row
 * is the distance to the next factor. */
static const real *factors_of_columns(real *block, int64_t *row, const real *dy, int64_t K,
                                      int64_t depth, int64_t columns) {
    if (TERMS == 1) return *row = K, dy;
    *row = MC;
    for (int64_t p = 0; p < depth; p += TERMS)
        for (int64_t j = 0; j < columns; j += VL)
            store_part(block + p / TERMS * MC + j,
                       factors_down(dy + p * K + j, K, depth - p, columns - j), columns - j);
    return block;
}

/* Rows first..last-1 of out (N,K) = a (N,C) B (C,K) + bias (K) + residual (N,K) are written, with
 * B(p,j) = b[p * b_row + j * b_col]. bias and residual may be NULL. */
static void multiply_rows(real *out, real *scratch, const real *a, const real *b, int64_t b_row,
                          int64_t b_col, const real *bias, const real *residual, int64_t C,
                          int64_t K, int64_t first, int64_t last) {
    real panel[KC / TERMS * NR] __attribute__((aligned(64)));
    int64_t x_row = TERMS == 1 ? C : factors(min(C, KC_OUTER));
    for (int64_t s = 0; s < C && first < last; s += KC_OUTER) {
        const real *x =
            factors_of_rows(scratch, x_row, a + s, C, min(C - s, KC_OUTER), first, last);
        for (int64_t k = 0; k < K; k += NR) {
            int64_t columns = min(K - k, NR);
            for (int64_t c = s; c < C && c < s + KC_OUTER; c += KC) {
                int64_t depth = min(C - c, KC);
                pack(panel, b + c * b_row + k * b_col, b_row, b_col, depth, columns);
                for (int64_t n = first; n < last; n += MR) {
                    int mr = (int)min(last - n, MR);
                    real *y = out + n * K + k;
                    /* The first block adds bias and residual. Later blocks add to y. */
                    const real *from = bias && c == 0 ? bias + k : 0;
                    const real *plus = c > 0 ? y : residual ? residual + n * K + k : 0;
                    tile(TERMS, mr, columns, y, K, from, 0, plus, K, factors(depth),
                         x + n * x_row + (c - s) / TERMS, x_row, 1, panel, NR);
                }
            }
        }
    }
}

/* dw (K,C) += dyT (K,N) x (N,C), for tiles first..last-1 of dw. A group is MC rows of dw, and a
 * panel is NR columns of a group. Tiles are numbered group by group, in a group panel by panel, and
 * in a panel downwards. With MC = 3 MR, K = 5 MR and C = 2 NR:
 *
 *                      panel 0   panel 1
 *     tile row 0          0         3
 *              1          1         4       group g = 0, high = 3
 *              2          2         5
 *                      - - - - - - - - -
 *              3          6         8       group g = 3, high = 2
 *              4          7         9
 *
 * In the group that begins at tile row g and is `high` tile rows high, the tile in row g + t of
 * panel q has the number g * panels + q * high + t. The tiles of a thread may begin and end inside
 * a panel. */
static void add_dw(real *dw, const real *dy, const real *x, int64_t N, int64_t C, int64_t K,
                   int64_t first, int64_t last) {
    enum { GROUP = MC / MR }; /* tile rows of a group */
    real panel[KC_DW / TERMS * NR] __attribute__((aligned(64)));
    real block[TERMS == 1 ? 1 : KC_DW / TERMS * MC] __attribute__((aligned(64)));
    int64_t tile_rows = (K + MR - 1) / MR, panels = (C + NR - 1) / NR;
    for (int64_t g = first / (GROUP * panels) * GROUP; g * panels < last; g += GROUP) {
        int64_t high = min(tile_rows - g, GROUP);
        /* The thread owns tiles from..to-1 of this group, counted from the group's first tile. */
        int64_t from = first > g * panels ? first - g * panels : 0, to = last - g * panels;
        if (to > high * panels) to = high * panels;
        for (int64_t n = 0; n < N; n += KC_DW) {
            int64_t depth = min(N - n, KC_DW), a_row;
            const real *a = factors_of_columns(block, &a_row, dy + n * K + g * MR, K, depth,
                                               min(K - g * MR, MC));
            for (int64_t q = from / high; q * high < to; q++) {
                int64_t columns = min(C - q * NR, NR);
                int64_t t0 = from > q * high ? from - q * high : 0, t1 = min(to - q * high, high);
                pack(panel, x + n * C + q * NR, C, 1, depth, columns);
                for (int64_t t = g + t0; t < g + t1; t++) {
                    int mr = (int)min(K - t * MR, MR);
                    real *out = dw + t * MR * C + q * NR;
                    tile(TERMS, mr, columns, out, C, 0, 0, out, C, factors(depth),
                         a + (t - g) * MR, 1, a_row, panel, NR);
                }
            }
        }
    }
}

/* db (columns) += the column sums of dy, in blocks of KC_DW rows. `columns` is at most nv vectors;
 * the N rows of dy are K apart. */
INLINE void add_column_sums(const int nv, real *db, const real *dy, int64_t N, int64_t K,
                            int64_t columns) {
    for (int64_t n = 0; n < N; n += KC_DW) {
        vec block[NV] = {0};
        for (int64_t i = n; i < N && i < n + KC_DW; i++)
            UNROLL for (int j = 0; j < nv; j++)
                block[j] += load_part(dy + i * K + j * VL, columns - j * VL);
        UNROLL for (int j = 0; j < nv; j++) {
            vec sum = load_part(db + j * VL, columns - j * VL) + block[j];
            store_part(db + j * VL, sum, columns - j * VL);
        }
    }
}

/* Add to columns first..last-1 of db (K): NV vectors at a time, and then one at a time. */
static void add_db(real *db, const real *dy, int64_t N, int64_t K, int64_t first, int64_t last) {
    int64_t k = first;
    for (; k + NR <= last; k += NR) add_column_sums(NV, db + k, dy + k, N, K, NR);
    for (; k < last; k += VL) add_column_sums(1, db + k, dy + k, N, K, last - k);
}

int64_t FN(matmul_scratch)(int64_t N, int64_t C) {
    return TERMS == 1 ? 0 : N * factors(min(C, KC_OUTER));
}

void FN(matmul_forward)(real *y, real *scratch, const real *x, const real *w, const real *b,
                        const real *residual, int64_t N, int64_t C, int64_t K, int threads) {
    if (N < 2 * MR || N * C * K < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(N, MR, threads, thread, &first, &last);
        multiply_rows(y, scratch, x, w, 1, C, b, residual, C, K, first, last); /* B = wT */
    }
}

void FN(matmul_backward)(real *dx, real *dw, real *db, real *scratch, const real *dy, const real *x,
                         const real *w, int64_t N, int64_t C, int64_t K, int threads) {
    int64_t tiles = (K + MR - 1) / MR * ((C + NR - 1) / NR); /* of dw */
    if (N * C * K < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(N, MR, threads, thread, &first, &last);
        if (dx) /* B = w, a sum over K */
            multiply_rows(dx, scratch, dy, w, C, 1, 0, 0, K, C, first, last);
        share(K, VL, threads, thread, &first, &last);
        if (db) add_db(db, dy, N, K, first, last);
        share(tiles, 1, threads, thread, &first, &last);
        if (dw) add_dw(dw, dy, x, N, C, K, first, last);
    }
}
