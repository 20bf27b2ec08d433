/* GELU, y = x s(x) (rows.h), and its derivative dy/dx = s + x s (1 - s) 2 du/dx
 * (not a number where x x overflows: from 1.8e19 on in float32). */
#include "kernels.h"
#include "rows.h"

INLINE vec derivative(vec s, vec x) { return s + x * s * (1 - s) * (2 * ROOT + 6 * ROOT * CUBIC * (x * x)); }

/* Threads take whole vectors, so an element is in the tail for any number of them or for none. */
void FN(gelu_forward)(real *y, real *dydx, const real *x, int64_t n, int threads) {
    if (n < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += VL) {
        vec here = load_part(x + i, n - i), s = gelu_gate(here);
        store_part(y + i, here * s, n - i);
        if (dydx) store_part(dydx + i, derivative(s, here), n - i);
    }
}

void FN(gelu_backward)(real *dx, const real *dy, const real *x, const real *dydx, int64_t n, int threads) {
    if (n < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += VL) {
        vec slope;
        if (dydx) slope = load_part(dydx + i, n - i);
        else {
            vec here = load_part(x + i, n - i);
            slope = derivative(gelu_gate(here), here);
        }
        store_part(dx + i, load_part(dy + i, n - i) * slope, n - i);
    }
}
