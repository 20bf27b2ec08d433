/* The micro-kernel. Every matrix product runs on it, except P V of a single token (attend() in
 * decode.c):
 *
 *     out(i,j) = from(i,j) + sum over p < depth of A(i,p) B(p,j) + plus(i,j)
 *
 * for i < mr <= MR rows and the columns j of nv <= NV vectors. Of the last vector, only the first
 * `last` lanes are used in out, from and plus. `from` may be out itself, to go on with a sum. from
 * and plus may be NULL for zero.
 *
 *                                  vector 0   vector 1   ..      row p of B, in whole vectors
 *     A(0,p) in every lane          c[0][0]    c[0][1]    ..
 *     A(1,p) in every lane          c[1][0]    c[1][1]    ..      accumulators, in registers
 *       ..                            ..         ..
 *
 *     for p = 0, 1, ..:             c[i][j] += A(i,p) * vector j
 *
 * A(i,p) = a[i * a_row + p * a_col] is read element by element, in place: packing A never paid.
 * B(p,j) = b[p * b_row + j]. Rows of out, from and plus are out_row, from_row and plus_row elements
 * apart. A and B hold reals, or, in products of activations and weights, factors (factors.h). Then
 * p counts factors.
 *
 * Each element is one chain of additions in the order of p, whatever the size of the tile and the
 * element's place in it. That is why a row has the same bits in every batch.
 *
 * Sizes of blocks have the names of BLIS (matmul.c shows how they nest):
 *
 *     MR, NR = NV * VL    rows and columns of a tile (simd.h)
 *     KC                  the longest part of a sum that a tile forms in x wT. matmul.c and
 *                         decode.c must cut sums at the same places to have the same bits. */
#ifndef PYSFT_TILE_H
#define PYSFT_TILE_H

#include "factors.h"

enum { KC = TERMS == 1 ? 96 : 384 };

/* One tile. terms, mr and nv are constants wherever this is inlined. So c is kept in registers, and
 * the innermost line is one instruction, where the instruction set has a fused multiply-add. */
INLINE void tile_of(const int terms, const int mr, const int nv, real *out, int64_t out_row,
                    int last, const real *from, int64_t from_row, const real *plus,
                    int64_t plus_row, int64_t depth, const real *a, int64_t a_row, int64_t a_col,
                    const real *b, int64_t b_row) {
    vec c[MR][NV];
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++) {
            int lanes = j < nv - 1 ? VL : last;
            c[i][j] = from ? load_part(from + i * from_row + j * VL, lanes) : (vec){0};
        }
    for (int64_t p = 0; p < depth; p++) {
        vec row[NV];
        UNROLL for (int j = 0; j < nv; j++) row[j] = load(b + p * b_row + j * VL);
        UNROLL for (int i = 0; i < mr; i++) {
            const real *x = a + i * a_row + p * a_col;
            UNROLL for (int j = 0; j < nv; j++) c[i][j] = add_product(terms, c[i][j], x, row[j]);
        }
    }
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++) {
            int lanes = j < nv - 1 ? VL : last;
            if (plus) c[i][j] += load_part(plus + i * plus_row + j * VL, lanes);
            store_part(out + i * out_row + j * VL, c[i][j], lanes);
        }
}

/* A tile of mr <= MR rows and `columns` <= NR columns, of factors of `terms` terms. These are known
 * only at run time, and choose one of the tiles that are compiled for each of them. */
static __attribute__((unused, noinline)) void tile(int terms, int mr, int64_t columns, real *out,
                                                   int64_t out_row, const real *from,
                                                   int64_t from_row, const real *plus,
                                                   int64_t plus_row, int64_t depth, const real *a,
                                                   int64_t a_row, int64_t a_col, const real *b,
                                                   int64_t b_row) {
    int nv = (int)((columns + VL - 1) / VL), last = (int)(columns - (nv - 1) * VL);
#define TILE(t, m, n)                                                                             \
    case (t) * 64 + (m) * 8 + (n):                                                                \
        tile_of(t, m, n, out, out_row, last, from, from_row, plus, plus_row, depth, a, a_row,     \
                a_col, b, b_row);                                                                 \
        break;
#define TILES(t, n) TILE(t, 1, n) TILE(t, 2, n) TILE(t, 3, n) TILE(t, 4, n)
#define TALL(t, n) TILES(t, n) TILE(t, 5, n) TILE(t, 6, n)
    switch (terms * 64 + mr * 8 + nv) {
#if defined(__AVX512F__) || defined(__aarch64__)
        TALL(1, 1) TALL(1, 2) TALL(1, 3) TALL(1, 4)
#else
        TILES(1, 1) TILES(1, 2)
#ifdef __AVX2__
        TILES(1, 3)
#endif
#endif
#ifdef PYSFT_BF16
        TALL(2, 1) TALL(2, 2) TALL(2, 3) TALL(2, 4)
#endif
    }
#undef TALL
#undef TILES
#undef TILE
}

#endif
