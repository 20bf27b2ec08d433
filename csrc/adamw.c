/* AdamW: Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019), algorithm 2. The
 * schedule's multiplier is part of lr, and eps is added to the corrected root, both as in PyTorch:
 *
 *     w -= lr * decay * w
 *     m  = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
 *     w -= lr * (m / correction1) / (sqrt(v / correction2) + eps) */
#include "kernels.h"
#include "simd.h"

/* w, m and v (n) are updated in place. Factors that are the same for all elements are computed
 * first, in float64. */
void FN(adamw)(real *w, real *m, real *v, const real *g, int64_t n, double lr, double beta1,
               double beta2, double eps, double decay, double correction1, double correction2,
               int threads) {
    const real keep = (real)(1 - lr * decay), b1 = (real)beta1, b2 = (real)beta2;
    const real c1 = (real)(1 - beta1), c2 = (real)(1 - beta2), small = (real)eps;
    const real rate = (real)(lr / correction1), root = (real)(1 / sqrt(correction2));
    if (n < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last; /* multiples of 64, so the tail is the same for any `threads` */
        share(n, 64, threads, thread, &first, &last);
#pragma omp simd
        for (int64_t i = first; i < last; i++) {
            m[i] = b1 * m[i] + c1 * g[i];
            v[i] = b2 * v[i] + c2 * g[i] * g[i];
            w[i] = keep * w[i] - rate * m[i] / (sqrt(v[i]) * root + small);
        }
    }
}

/* Each sum has eight chains of additions for every instruction set: element i of a block is added
 * to chain i mod 8. */
void FN(sum_squares)(double *partials, const real *x, int64_t n, int threads) {
    enum { SQUARES_BLOCK = 4096 }; /* the same as in pysft/nn/kernels.py */
    typedef double eight_doubles __attribute__((vector_size(64)));
    typedef real eight_reals
        __attribute__((vector_size(8 * sizeof(real)), aligned(sizeof(real)), may_alias));
    if (n < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < (n + SQUARES_BLOCK - 1) / SQUARES_BLOCK; b++) {
        int64_t i = b * SQUARES_BLOCK, last = min(i + SQUARES_BLOCK, n);
        eight_doubles chain = {0};
        for (; i + 8 <= last; i += 8) {
            eight_doubles v = __builtin_convertvector(*(const eight_reals *)(x + i), eight_doubles);
            chain += v * v;
        }
        for (; i < last; i++) chain[i % 8] += (double)x[i] * (double)x[i];
        partials[b] = ((chain[0] + chain[1]) + (chain[2] + chain[3])) +
                      ((chain[4] + chain[5]) + (chain[6] + chain[7]));
    }
}
