/* The micro-kernel: the only place where a product's multiplications happen.
 *
 *     acc[i][j] += sum over p in 0..depth-1 of A(i,p) B(p,j),   i < mr <= MR, j < nv vectors <= NV
 *
 * A(i,p) = a[i * a_row + p * a_col] is read one element at a time and broadcast, straight from
 * row-major memory (packing A never pays); B(p,j) = b[p * b_row + j] is read in vectors. mr and nv
 * are constants wherever this is inlined, so acc lives in registers and each line below is one
 * fused multiply-add.
 *
 * Each element is its own chain of additions in the order of p, whatever the tile's size and its
 * place in it: that is why a row has the same bits in every batch. */
#ifndef PYSFT_TILE_H
#define PYSFT_TILE_H

#include "simd.h"

INLINE void tile_of(const int mr, const int nv, vec acc[MR][NV], int64_t depth, const real *a,
                    int64_t a_row, int64_t a_col, const real *b, int64_t b_row) {
    vec c[MR][NV];
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++) c[i][j] = acc[i][j];
    for (int64_t p = 0; p < depth; p++) {
        vec row[NV];
        UNROLL for (int j = 0; j < nv; j++) row[j] = load(b + p * b_row + j * VL);
        UNROLL for (int i = 0; i < mr; i++) {
            vec x = splat(a[i * a_row + p * a_col]);
            UNROLL for (int j = 0; j < nv; j++) c[i][j] += x * row[j];
        }
    }
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++) acc[i][j] = c[i][j];
}

/* Sizes known only at run time choose one of the compiled tiles. */
static __attribute__((unused)) void tile(int mr, int nv, vec acc[MR][NV], int64_t depth,
                                         const real *a, int64_t a_row, int64_t a_col, const real *b,
                                         int64_t b_row) {
#define TILE(m, n) case (m) * 8 + (n): tile_of(m, n, acc, depth, a, a_row, a_col, b, b_row); break;
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
