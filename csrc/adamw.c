/* AdamW, Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019), algorithm 2, with
 * the schedule's multiplier inside lr and eps outside the root's correction, as PyTorch has it:
 *
 *     w -= lr * decay * w
 *     m  = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
 *     w -= lr * (m / correction1) / (sqrt(v / correction2) + eps) */
#include "kernels.h"
#include "simd.h"

void FN(adamw)(real *w, real *m, real *v, const real *g, int64_t n, double lr, double beta1,
               double beta2, double eps, double decay, double correction1, double correction2,
               int threads) {
    const real keep = (real)(1 - lr * decay), b1 = (real)beta1, b2 = (real)beta2;
    const real c1 = (real)(1 - beta1), c2 = (real)(1 - beta2), small = (real)eps;
    const real rate = (real)(lr / correction1), root = (real)(1 / sqrt(correction2));
    if (n < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last; /* multiples of 64: the same elements are a tail for any `threads` */
        share(n, 64, threads, thread, &first, &last);
#pragma omp simd
        for (int64_t i = first; i < last; i++) {
            m[i] = b1 * m[i] + c1 * g[i];
            v[i] = b2 * v[i] + c2 * g[i] * g[i];
            w[i] = keep * w[i] - rate * m[i] / (sqrt(v[i]) * root + small);
        }
    }
}

void FN(sum_squares)(double *partials, const real *x, int64_t n, int threads) {
    enum { BLOCK = 4096 }; /* as the gate's SQUARES_BLOCK */
    if (n < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < (n + BLOCK - 1) / BLOCK; b++) {
        int64_t last = (b + 1) * BLOCK < n ? (b + 1) * BLOCK : n;
        typedef double lanes __attribute__((vector_size(64)));
        typedef real eight __attribute__((vector_size(8 * sizeof(real)), aligned(sizeof(real)), may_alias));
        lanes lane = {0};
        int64_t i = b * BLOCK;
        for (; i + 8 <= last; i += 8) {
            lanes here = __builtin_convertvector(*(const eight *)(x + i), lanes);
            lane += here * here;
        }
        for (; i < last; i++) lane[i % 8] += (double)x[i] * (double)x[i];
        partials[b] = ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
                      ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
}
