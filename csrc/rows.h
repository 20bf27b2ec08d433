/* Layer norm of one row, and the gate of GELU. They are shared, because decode.c must give a single
 * token the same bits as layernorm.c and gelu.c give it in a whole batch. */
#ifndef PYSFT_ROWS_H
#define PYSFT_ROWS_H

#include "simd.h"

/* y (C) = (x - mean) rstd w + b, with rstd = 1 / sqrt(variance + eps). y, *mean and *rstd are
 * written. Ba, Kiros and Hinton, Layer Normalization (2016), section 3. */
INLINE void layernorm_row(real *y, real *mean, real *rstd, const real *x, const real *w,
                          const real *b, int64_t C, real eps) {
    vec total = {0}, squares = {0};
    for (int64_t i = 0; i < C; i += VL) total += load_part(x + i, C - i);
    real mu = sum_lanes(total) / (real)C;
    for (int64_t i = 0; i < C; i += VL) { /* fill a tail with the mean, whose deviation is 0 */
        vec d = (C - i >= VL ? load(x + i) : load_tail(x + i, C - i, mu)) - mu;
        squares += d * d;
    }
    real rs = 1 / sqrt(sum_lanes(squares) / (real)C + eps);
    for (int64_t i = 0; i < C; i += VL) {
        vec norm = (load_part(x + i, C - i) - mu) * rs;
        store_part(y + i, norm * load_part(w + i, C - i) + load_part(b + i, C - i), C - i);
    }
    *mean = mu;
    *rstd = rs;
}

/* GELU in its tanh form is y = x s(x) with the gate
 *
 *     s = 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2 u)),    u = sqrt(2/pi) (x + 0.044715 x^3)
 *
 * Hendrycks and Gimpel, Gaussian Error Linear Units (2016), section 2. float32 uses the second
 * form, which needs one exponential. float64 uses the first, with the C library's tanh: it checks
 * float32, so it must not share its formula. */
static const real SQRT_2_OVER_PI = 0.79788456080286535588, CUBIC = 0.044715;

INLINE vec gelu_gate(vec x) {
    vec u = SQRT_2_OVER_PI * (x + CUBIC * x * x * x);
#ifdef PYSFT_F64
    UNROLL for (int i = 0; i < VL; i++) u[i] = 0.5 * (1 + tanh(u[i]));
    return u;
#else
    return 1 / (1 + vexp(-2 * u));
#endif
}

#endif
