/* Vectors of `real` in GNU C, one width for each instruction set, and the few functions of them
 * that the kernels share. a + b, a * b, a < b work lane by lane; a scalar operand is broadcast.
 *
 * A tail that does not fill a vector is loaded into one whose other lanes hold a harmless value and
 * then takes the very same instructions, so an element's bits never depend on whether it stood in a
 * tail. */
#ifndef PYSFT_SIMD_H
#define PYSFT_SIMD_H

#include <math.h>
#include <string.h>
#include "real.h"

/* MR x (NV vectors) is the tile of matmul: as many accumulators as the register file holds beside
 * NV vectors of B and one element of A. */
#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, MR = 6, NV = 4 };
#elif defined(__AVX2__)
enum { VECTOR_BYTES = 32, MR = 4, NV = 3 };
#elif defined(__aarch64__)
enum { VECTOR_BYTES = 16, MR = 6, NV = 4 };
#else
enum { VECTOR_BYTES = 16, MR = 4, NV = 2 };
#endif

enum { VL = VECTOR_BYTES / (int)sizeof(real) }; /* lanes of a vector */
enum { NR = NV * VL };                          /* columns of a tile */

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
/* The same at any address, over memory that is declared as plain reals. */
typedef real vec_u __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#ifdef PYSFT_F64
typedef int64_t ivec __attribute__((vector_size(VECTOR_BYTES)));
#else
typedef int32_t ivec __attribute__((vector_size(VECTOR_BYTES)));
#endif

#define INLINE static inline __attribute__((always_inline, unused))
#define UNROLL _Pragma("GCC unroll 16")

INLINE vec load(const real *p) { return *(const vec_u *)p; }
INLINE void store(real *p, vec x) { *(vec_u *)p = x; }

/* x in every lane. (`(vec){} + x` would be a real addition: -0 + 0 is not -0. x - 0 is x.) */
INLINE vec splat(real x) { return x - (vec){0}; }

/* The first n < VL elements at p, `fill` in the other lanes. */
INLINE vec load_tail(const real *p, int64_t n, real fill) {
    vec x = splat(fill);
    memcpy(&x, p, (size_t)n * sizeof(real));
    return x;
}
INLINE void store_tail(real *p, vec x, int64_t n) { memcpy(p, &x, (size_t)n * sizeof(real)); }

/* Lane by lane: mask ? a : b, where mask is the result of a comparison. */
INLINE vec select(ivec mask, vec a, vec b) {
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}
INLINE vec vmax(vec a, vec b) { return select(a > b, a, b); }

/* Horizontal sum and maximum, by halves: a fixed tree. */
INLINE real sum_lanes(vec x) {
    real lane[VL];
    memcpy(lane, &x, sizeof x);
    UNROLL for (int half = VL / 2; half > 0; half /= 2)
        UNROLL for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}
INLINE real max_lanes(vec x) {
    real lane[VL];
    memcpy(lane, &x, sizeof x);
    UNROLL for (int half = VL / 2; half > 0; half /= 2)
        UNROLL for (int i = 0; i < half; i++)
            lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}

#ifdef PYSFT_F64
/* The oracle uses the C library, so that it is not the polynomial that it checks. */
INLINE vec vexp(vec x) {
    UNROLL for (int i = 0; i < VL; i++) x[i] = exp(x[i]);
    return x;
}
#else
/* exp in float32, at most 1.01 ulp from the true value on [-87, 88] (tests/test_kernels.py measures
 * it); 0 below -87.33 (where the true value would be denormal), inf above 88.37, exp(0) = 1 exactly.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 is taken in two parts so that the subtraction is exact
 * to the last bit that matters; exp(r) = 1 + r + r^2 q(r), with q the degree-4 polynomial of least
 * relative error (3e-9); 2^n is put together from its exponent bits. */
INLINE vec vexp(vec x) {
    const float magic = 12582912.0f; /* 1.5 2^23: adding it rounds to the nearest integer */
    vec t = x * 1.44269504f + magic;
    vec n = t - magic;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec q = r * 1.381459878757596e-3f + 8.368716575205326e-3f;
    q = q * r + 4.166838899254799e-2f;
    q = q * r + 1.666652113199234e-1f;
    q = q * r + 4.999999403953552e-1f;
    vec y = r * r * q + r + 1.0f;
    ivec power = ((ivec)t << 23) + (127 << 23); /* the low bits of t are n; the shift drops the rest */
    y = y * (vec)power;
    y = select(x < -87.33654f, splat(0.0f), y);
    return select(x > 88.37626f, splat(INFINITY), y);
}
#endif

/* Columns [first, last) of 0..n-1 that thread i of `threads` owns: whole multiples of `grain`. */
INLINE void share(int64_t n, int64_t grain, int threads, int i, int64_t *first, int64_t *last) {
    int64_t pieces = (n + grain - 1) / grain;
    *first = pieces * i / threads * grain;
    *last = pieces * (i + 1) / threads * grain;
    if (*last > n) *last = n;
}

#endif
