/* Vectors of `real` in GNU C, as wide as the instruction set has them, and the functions on vectors
 * that the kernels share. a + b, a * b and a < b work lane by lane; a scalar operand is broadcast.
 *
 * The end of a row rarely fills a vector. The remaining lanes of its last vector, the tail, hold a
 * value f that does not change the result:
 *
 *     a row of 11 elements, VL = 4:    0 1 2 3     4 5 6 7     8 9 10 f
 *                                       load        load       load_tail(p, 3, f)
 *
 * The tail then takes the same instructions as a full vector. So an element gets the same bits
 * whether it is in a tail or not. */
#ifndef PYSFT_SIMD_H
#define PYSFT_SIMD_H

#include <string.h>
#include <tgmath.h> /* sqrt, log, exp, tanh: float for floats, double for doubles */
#include "real.h"
#ifdef __x86_64__
#include <immintrin.h>
#endif

/* The tile of tile.h is MR rows x NV vectors. These are as many accumulators as fit into the vector
 * registers together with NV vectors of B and one element of A. */
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
/* The same for any address that a real can have, over memory that is declared as plain reals. */
typedef real vec_u __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#ifdef PYSFT_F64
typedef int64_t lane_int; /* an integer as wide as a lane */
#else
typedef int32_t lane_int;
#endif
typedef lane_int ivec __attribute__((vector_size(VECTOR_BYTES)));

#define INLINE static inline __attribute__((always_inline, unused))
#define UNROLL _Pragma("GCC unroll 16")

/* ------------------------------------------------------------------------------- load and store */

INLINE vec load(const real *p) { return *(const vec_u *)p; }
INLINE void store(real *p, vec x) { *(vec_u *)p = x; }

/* x in every lane. (`(vec){} + x` would be a real addition: -0 + 0 is not -0. x - 0 is x.) */
INLINE vec splat(real x) { return x - (vec){0}; }

/* load_tail: the first n < VL elements at p, with `fill` in the other lanes. store_tail: write the
 * first n < VL lanes of x to p. */
#ifdef __AVX512F__
#ifdef PYSFT_F64
INLINE vec load_tail(const real *p, int64_t n, real fill) {
    return _mm512_mask_loadu_pd(splat(fill), (__mmask8)((1 << n) - 1), p);
}
INLINE void store_tail(real *p, vec x, int64_t n) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1 << n) - 1), x);
}
#else
INLINE vec load_tail(const real *p, int64_t n, real fill) {
    return _mm512_mask_loadu_ps(splat(fill), (__mmask16)((1 << n) - 1), p);
}
INLINE void store_tail(real *p, vec x, int64_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1 << n) - 1), x);
}
#endif
#else
static __attribute__((noinline, unused)) vec load_tail(const real *p, int64_t n, real fill) {
    vec x = splat(fill);
    memcpy(&x, p, (size_t)n * sizeof(real));
    return x;
}
static __attribute__((noinline, unused)) void store_tail(real *p, vec x, int64_t n) {
    memcpy(p, &x, (size_t)n * sizeof(real));
}
#endif
/* The same for any n > 0 elements that are left of a row: a full vector if n >= VL, else a tail,
 * which load_part fills with zeros. */
INLINE vec load_part(const real *p, int64_t n) { return n >= VL ? load(p) : load_tail(p, n, 0); }
INLINE void store_part(real *p, vec x, int64_t n) {
    if (n >= VL) store(p, x);
    else store_tail(p, x, n);
}

/* --------------------------------------------------------------------------------- lane by lane */

/* mask ? a : b in each lane, where mask is the result of a comparison. */
INLINE vec choose(ivec mask, vec a, vec b) {
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}

/* vmax: a > b ? a : b in each lane. vmin: a < b ? a : b. Both give b where a or b is not a number.
 * They use intrinsics, because gcc does not find that each is one instruction. */
#ifdef __x86_64__
#ifdef PYSFT_F64
#define NAME_(width, what) _mm##width##_##what##_pd
#else
#define NAME_(width, what) _mm##width##_##what##_ps
#endif
#if defined(__AVX512F__)
#define INSTRUCTION(what) NAME_(512, what)
#elif defined(__AVX2__)
#define INSTRUCTION(what) NAME_(256, what)
#else
#define INSTRUCTION(what) NAME_(, what)
#endif
INLINE vec vmax(vec a, vec b) { return INSTRUCTION(max)(a, b); }
INLINE vec vmin(vec a, vec b) { return INSTRUCTION(min)(a, b); }
#else
INLINE vec vmax(vec a, vec b) { return choose(a > b, a, b); }
INLINE vec vmin(vec a, vec b) { return choose(a < b, a, b); }
#endif

#ifdef PYSFT_F64
/* The C library's exp. float64 checks float32, so it must not share its polynomial. */
INLINE vec vexp(vec x) {
    UNROLL for (int i = 0; i < VL; i++) x[i] = exp(x[i]);
    return x;
}
#else
/* exp in float32, at most 1.01 ulp from the true value on [-87, 88] (tests/test_kernels.py measures
 * it). exp(0) is exactly 1. The result is 0 below -87.68 (the true value is denormal from -87.34
 * down) and inf above 88.37.
 *
 *     exp(x) = 2^n exp(r)
 *     x      = n ln 2 + r, |r| <= ln 2 / 2. ln 2 is taken in two parts, so that the subtraction is
 *              exact to the last bit that matters.
 *     exp(r) = 1 + r + r^2 q(r). q is the polynomial of degree 4 with the least relative error,
 *              3e-9.
 *     2^n      is made by writing n + 127 into the exponent bits. The least and the greatest
 *              exponent, n = -127 and n = 128, mean 0 and inf. x is clamped, so n stays within. */
INLINE vec vexp(vec x) {
    const float magic = 12582912.0f; /* 1.5 2^23: adding it rounds to the nearest integer */
    x = vmin(splat(89.0f), vmax(splat(-88.0f), x));
    vec t = x * 1.44269504f + magic; /* the low bits of t are n = round(x / ln 2) */
    vec n = t - magic;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec q = r * 1.381459878757596e-3f + 8.368716575205326e-3f;
    q = q * r + 4.166838899254799e-2f;
    q = q * r + 1.666652113199234e-1f;
    q = q * r + 4.999999403953552e-1f;
    vec y = r * r * q + r + 1.0f;
    ivec power = ((ivec)t << 23) + (127 << 23); /* the shift drops the other bits of t */
    return y * (vec)power;
}
#endif

/* ---------------------------------------------------------------------------- from lane to lane */

/* 0, 1, 2, ... The compiler knows it as a constant, and the masks that are computed from it too. */
INLINE ivec lane_numbers(void) {
    static const lane_int number[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ivec x;
    memcpy(&x, number, sizeof x);
    return x;
}

/* Lane i of the result is lane from[i] of the 2 VL lanes of a and b side by side. */
#ifdef __clang__ /* clang has no shuffle that takes the lane numbers as a vector */
INLINE vec shuffle(vec a, vec b, ivec from) {
    vec x;
    UNROLL for (int l = 0; l < VL; l++) x[l] = from[l] < VL ? a[from[l]] : b[from[l] - VL];
    return x;
}
#else
#define shuffle __builtin_shuffle
#endif

/* Lane i of the result is lane i ^ half of x. */
INLINE vec swap_lanes(vec x, const int half) { return shuffle(x, x, lane_numbers() ^ half); }

/* Horizontal sum and maximum, by halves, so the order of the additions is fixed. For VL = 4:
 *
 *     lane          0                      1                      2, 3
 *     x             x0                     x1                     x2, x3
 *     half = 2      x0 + x2                x1 + x3                the same two
 *     half = 1      (x0 + x2) + (x1 + x3)  in every lane */
INLINE real sum_lanes(vec x) {
    UNROLL for (int half = VL / 2; half > 0; half /= 2) x += swap_lanes(x, half);
    return x[0];
}
INLINE real max_lanes(vec x) {
    UNROLL for (int half = VL / 2; half > 0; half /= 2) x = vmax(x, swap_lanes(x, half));
    return x[0];
}

/* The greatest of x (n). */
INLINE real row_max(const real *x, int64_t n) {
    vec top = splat(x[0]);
    for (int64_t i = 0; i < n; i += VL)
        top = vmax(n - i >= VL ? load(x + i) : load_tail(x + i, n - i, x[0]), top);
    return max_lanes(top);
}

/* Transpose the VL x VL matrix whose rows are x[0..VL-1]. Blocks of h x h beside the diagonal
 * change places, for h = 1, 2, 4, ... For VL = 4:
 *
 *     x[0]   a0 a1 a2 a3            a0 b0 a2 b2            a0 b0 c0 d0
 *     x[1]   b0 b1 b2 b3   h = 1    a1 b1 a3 b3   h = 2    a1 b1 c1 d1
 *     x[2]   c0 c1 c2 c3   ---->    c0 d0 c2 d2   ---->    a2 b2 c2 d2
 *     x[3]   d0 d1 d2 d3            c1 d1 c3 d3            a3 b3 c3 d3 */
INLINE void transpose(vec x[VL]) {
    UNROLL for (int h = 1; h < VL; h *= 2) {
        ivec lane = lane_numbers(), far = (lane & h) != 0; /* -1 where the lane number has bit h */
        UNROLL for (int i = 0; i < VL; i++) {
            if (i & h) continue;
            vec a = x[i], b = x[i + h];
            x[i] = shuffle(a, b, lane + (far & (VL - h)));
            x[i + h] = shuffle(a, b, lane + h + (far & (VL - h)));
        }
    }
}

/* ---------------------------------------------------------------------------- sizes and offsets */

INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Thread i of `threads` owns the elements first..last-1 of 0..n-1. first is a multiple of `grain`,
 * and so is last, unless it is n. A thread without elements has first = last. */
INLINE void share(int64_t n, int64_t grain, int threads, int i, int64_t *first, int64_t *last) {
    int64_t pieces = (n + grain - 1) / grain;
    *first = pieces * i / threads * grain;
    *last = pieces * (i + 1) / threads * grain;
    if (*last > n) *last = n;
}

/* The position of the first bad entry of cu_seqlens (S+1), or -1 if all are good. They must start
 * with 0, never fall, and end with N. No sequence may have more than `longest` rows. */
INLINE int64_t first_bad_offset(const int32_t *cu_seqlens, int64_t N, int64_t S, int64_t longest) {
    if (cu_seqlens[0] != 0) return 0;
    for (int64_t s = 0; s < S; s++) {
        int64_t length = (int64_t)cu_seqlens[s + 1] - cu_seqlens[s];
        if (length < 0 || length > longest) return s + 1;
    }
    return cu_seqlens[S] == N ? -1 : S;
}

#endif
