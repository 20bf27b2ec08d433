/* GELU, y = x s(x) with the gate s of rows.h, and its derivative
 *
 *     dy/dx = s + x ds/dx,    ds/dx = s (1 - s) 2 du/dx,    du/dx = sqrt(2/pi) (1 + 3*0.044715 x^2)
 *
 * The derivative is not a number where x^2 overflows: in float32 for |x| from 1.8e19 on. */
#include "kernels.h"
#include "rows.h"

/* dy/dx at x, whose gate is s. */
INLINE vec gelu_slope(vec s, vec x) {
    vec twice_du = 2 * SQRT_2_OVER_PI + 6 * SQRT_2_OVER_PI * CUBIC * (x * x);
    return s + x * s * (1 - s) * twice_du;
}

/* y, and dydx if it is not NULL, are written. Threads take whole vectors, so the tail is the same
 * for any number of threads. */
void FN(gelu_forward)(real *y, real *dydx, const real *x, int64_t n, int threads) {
    if (n < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += VL) {
        vec v = load_part(x + i, n - i), s = gelu_gate(v);
        store_part(y + i, v * s, n - i);
        if (dydx) store_part(dydx + i, gelu_slope(s, v), n - i);
    }
}

/* dx = dy dy/dx is written. The derivative is dydx of the forward. If dydx is NULL, it is computed
 * from x. */
void FN(gelu_backward)(real *dx, const real *dy, const real *x, const real *dydx, int64_t n,
                       int threads) {
    if (n < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += VL) {
        vec slope;
        if (dydx) slope = load_part(dydx + i, n - i);
        else {
            vec v = load_part(x + i, n - i);
            slope = gelu_slope(gelu_gate(v), v);
        }
        store_part(dx + i, load_part(dy + i, n - i) * slope, n - i);
    }
}
