/* The factors of a product, in the form in which the tile (tile.h) reads them.
 *
 * In float32 and float64 a factor is an element of an array. In bf16 it is a pair: two elements
 * that follow each other in the sum, each rounded to bf16 (the upper half of a float, to nearest,
 * ties to even, denormals to zero), in the 32 bits of one float. One instruction, vdpbf16ps,
 * multiplies 16 pairs by 16 pairs. For each of 16 sums it computes, rounding twice and with
 * denormals as zero,
 *
 *     sum + x[1] y[1]     and then     + x[0] y[0]
 *
 * A sum over n terms takes factors(n) factors. If n is odd, the last pair ends with zero.
 *
 * In memory both elements of a pair are neighbours of the same row, or they stand below each other:
 *
 *     x   a b c d       along a row   ab cd       down a column   ae bf cg dh
 *         e f g h                     ef gh                                         */
#ifndef PYSFT_FACTORS_H
#define PYSFT_FACTORS_H

#include "simd.h"

#ifdef PYSFT_BF16
enum { TERMS = 2 }; /* terms of a sum in one factor */

/* The elements of a and then those of b, rounded: 16 pairs. */
INLINE vec rounded(vec a, vec b) {
    return (vec)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
}

/* a[0] b[0] a[1] b[1] ..., rounded: 16 pairs. */
INLINE vec rounded_down(vec a, vec b) {
    static const int16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i halves = _mm512_loadu_si512(order);
    return (vec)_mm512_permutexvar_epi16(halves, (__m512i)rounded(a, b));
}

#else
enum { TERMS = 1 };
#endif

/* sum + x y in each lane, for factors of `terms` terms: 1, or TERMS. x is the same in all lanes. */
INLINE vec add_product(const int terms, vec sum, const real *x, vec y) {
#ifdef PYSFT_BF16
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    if (terms == TERMS)
        return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)y);
#endif
    (void)terms;
    return sum + splat(*x) * y;
}

INLINE int64_t factors(int64_t n) { return (n + TERMS - 1) / TERMS; }

/* The next VL factors along a row with n elements left, each times `scale`; zeros beyond them. */
INLINE vec factors_along(const real *x, int64_t n, real scale) {
#ifdef PYSFT_BF16
    vec more = n > VL ? load_part(x + VL, n - VL) : (vec){0};
    return rounded(load_part(x, n) * scale, more * scale);
#else
    return load_part(x, n) * scale;
#endif
}

/* The next factor of VL columns, for sums down the `rows` that are left, which are x_row elements
 * apart. n columns are left; zeros beyond them. */
INLINE vec factors_down(const real *x, int64_t x_row, int64_t rows, int64_t n) {
#ifdef PYSFT_BF16
    return rounded_down(load_part(x, n), rows > 1 ? load_part(x + x_row, n) : (vec){0});
#else
    (void)x_row, (void)rows;
    return load_part(x, n);
#endif
}

/* The factors of columns 0..columns-1 of rows first..last-1 of a, whose rows are a_row elements
 * apart. Reals are read in place. Pairs are written to scratch, whose rows are scratch_row apart.
 * Returns where row 0 is. */
INLINE const real *factors_of_rows(real *scratch, int64_t scratch_row, const real *a, int64_t a_row,
                                   int64_t columns, int64_t first, int64_t last) {
    if (TERMS == 1) return a;
    for (int64_t n = first; n < last; n++)
        for (int64_t c = 0; c < columns; c += TERMS * VL) {
            vec x = factors_along(a + n * a_row + c, columns - c, 1);
            store_part(scratch + n * scratch_row + c / TERMS, x, factors(columns - c));
        }
    return scratch;
}

/* out(p,i) = factor p of scale x(i,.) for i < rows, and zero for i from `rows` up to the next
 * multiple of VL; x has `columns` columns. Rows of out are out_row elements apart, rows of x are
 * x_row apart. */
static __attribute__((noinline, unused)) void pack_transposed(real *out, int64_t out_row,
                                                              const real *x, int64_t x_row,
                                                              int64_t rows, int64_t columns,
                                                              real scale) {
    for (int64_t i = 0; i < rows; i += VL)
        for (int64_t p = 0; p < factors(columns); p += VL) {
            vec block[VL];
            UNROLL for (int r = 0; r < VL; r++) {
                const real *row = x + (i + r) * x_row + p * TERMS;
                block[r] = i + r < rows ? factors_along(row, columns - p * TERMS, scale) : (vec){0};
            }
            transpose(block);
            for (int c = 0; c < VL && p + c < factors(columns); c++)
                store(out + (p + c) * out_row + i, block[c]);
        }
}

/* Copy B (depth,columns) to panel (factors(depth),NR), with zeros beyond `columns` up to a whole
 * vector. B(p,j) = b[p * b_row + j * b_col], where b_row or b_col is 1. */
static __attribute__((unused)) void pack(real *panel, const real *b, int64_t b_row, int64_t b_col,
                                         int64_t depth, int64_t columns) {
    if (b_col != 1) pack_transposed(panel, NR, b, b_col, columns, depth, 1);
    else
        for (int64_t p = 0; p < depth; p += TERMS)
            for (int64_t j = 0; j < columns; j += VL)
                store(panel + p / TERMS * NR + j,
                      factors_down(b + p * b_row + j, b_row, depth - p, columns - j));
}

#endif
