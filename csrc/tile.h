/* The micro-kernel: the only place where a product's multiplications happen.
 *
 *     out(i,j) = from(i,j) + sum over p in 0..depth-1 of A(i,p) B(p,j) + plus(i,j)
 *
 * for i < mr <= MR rows and j < nv <= NV vectors of columns, of the last of which only `last` lanes
 * exist in out, from and plus. A(i,p) = a[i * a_row + p * a_col] is read one element at a time and
 * broadcast, straight from row-major memory (packing A never pays); B(p,j) = b[p * b_row + j] is read
 * in whole vectors. from may be out (to go on with a sum); from or plus may be NULL (nothing).
 *
 * mr and nv are constants wherever this is inlined, so c lives in registers and the innermost line is
 * one fused multiply-add.
 *
 * Each element is its own chain of additions in the order of p, whatever the tile's size and its
 * place in it: that is why a row has the same bits in every batch. */
#ifndef PYSFT_TILE_H
#define PYSFT_TILE_H

#include "simd.h"

enum { DEPTH = 96 }; /* a longer sum of a product is made of blocks of DEPTH */

INLINE void tile_of(const int mr, const int nv, real *out, int64_t out_row, int last, const real *from,
                    int64_t from_row, const real *plus, int64_t plus_row, int64_t depth, const real *a,
                    int64_t a_row, int64_t a_col, const real *b, int64_t b_row) {
    vec c[MR][NV];
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++)
            c[i][j] = from ? load_part(from + i * from_row + j * VL, j < nv - 1 ? VL : last) : (vec){0};
    for (int64_t p = 0; p < depth; p++) {
        vec row[NV];
        UNROLL for (int j = 0; j < nv; j++) row[j] = load(b + p * b_row + j * VL);
        UNROLL for (int i = 0; i < mr; i++) {
            vec x = splat(a[i * a_row + p * a_col]);
            UNROLL for (int j = 0; j < nv; j++) c[i][j] += x * row[j];
        }
    }
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++) {
            int lanes = j < nv - 1 ? VL : last;
            if (plus) c[i][j] += load_part(plus + i * plus_row + j * VL, lanes);
            store_part(out + i * out_row + j * VL, c[i][j], lanes);
        }
}

/* `columns` <= NR columns; sizes known only at run time choose one of the compiled tiles. */
static __attribute__((unused, noinline)) void tile(int mr, int64_t columns, real *out, int64_t out_row, const real *from,
                                         int64_t from_row, const real *plus, int64_t plus_row,
                                         int64_t depth, const real *a, int64_t a_row, int64_t a_col,
                                         const real *b, int64_t b_row) {
    int nv = (int)((columns + VL - 1) / VL), last = (int)(columns - (nv - 1) * VL);
#define TILE(m, n)                                                                                \
    case (m) * 8 + (n):                                                                           \
        tile_of(m, n, out, out_row, last, from, from_row, plus, plus_row, depth, a, a_row, a_col, b, b_row); \
        break;
#define TILES(n) TILE(1, n) TILE(2, n) TILE(3, n) TILE(4, n)
    switch (mr * 8 + nv) {
        TILES(1) TILES(2)
#if defined(__AVX2__) || defined(__aarch64__)
        TILES(3)
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
        TILES(4)
        TILE(5, 1) TILE(5, 2) TILE(5, 3) TILE(5, 4)
        TILE(6, 1) TILE(6, 2) TILE(6, 3) TILE(6, 4)
#endif
    }
#undef TILES
#undef TILE
}

#endif
