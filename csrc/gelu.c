/* GELU in its tanh form: y = 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3).
 * Hendrycks and Gimpel, Gaussian Error Linear Units (2016), section 2.
 *
 * 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)) = s, so y = x s with one exponential, and
 * dy/dx = s + x s (1 - s) 2 du/dx. In float64 s comes from the C library's tanh, as the formula
 * stands, so that the oracle does not share the form it checks. */
#include "kernels.h"
#include "simd.h"

static const real ROOT = 0.79788456080286535588, CUBIC = 0.044715;

/* s(x) = 0.5 (1 + tanh(u)) */
INLINE vec gate(vec x) {
    vec u = ROOT * (x + CUBIC * x * x * x);
#ifdef PYSFT_F64
    UNROLL for (int i = 0; i < VL; i++) u[i] = 0.5 * (1 + tanh(u[i]));
    return u;
#else
    return 1 / (1 + vexp(-2 * u));
#endif
}
INLINE vec derivative(vec s, vec x) { return s + x * s * (1 - s) * (2 * ROOT) * (1 + 3 * CUBIC * x * x); }

/* Threads take whole vectors, so an element is in the tail for any number of them or for none. */
void FN(gelu_forward)(real *y, real *dydx, const real *x, int64_t n, int threads) {
    if (n < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += VL) {
        vec here = load_part(x + i, n - i), s = gate(here);
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
            slope = derivative(gate(here), here);
        }
        store_part(dx + i, load_part(dy + i, n - i) * slope, n - i);
    }
}
