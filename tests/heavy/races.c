/* Calls every kernel on four threads, for clang's ThreadSanitizer and Archer (make tsan). With
 * -DPLANT it also has a race of its own, which they must find. */
#include <stdio.h>
#include <stdlib.h>
#include "kernels.h"

enum { S = 6, T = 50, N = S * T, C = 64, H = 4, D = C / H, K = 192 };
enum { V = 68, L = 2, THREADS = 4 };

/* n random numbers from -0.5 to 0.5. */
static real *some(int64_t n) {
    static uint32_t seed = 1;
    real *x = malloc((size_t)n * sizeof(real));
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (real)(seed >> 8) / (1 << 24) - (real)0.5;
    }
    return x;
}

int main(void) {
    int32_t offsets[S + 1], tokens[N], labels[N], positions[S], slots[S];
    for (int i = 0; i <= S; i++) offsets[i] = i * T;
    for (int i = 0; i < N; i++) tokens[i] = i * 7 % V, labels[i] = i % 3 ? i * 5 % V : -100;
    for (int i = 0; i < S; i++) slots[i] = i;
    real *x = some(N * C), *y = some(N * K), *w = some(K * C), *b = some(K);
    real *dx = some(N * K), *dw = some(K * C), *db = some(K), *dy = some(N * K);
    real *mean = some(N), *rstd = some(N), *lse = some(N * H);
    real *qkv = some(N * 3 * C), *dqkv = some(N * 3 * C);
    int64_t refused = 0; /* stays 0 as long as every kernel returns -1: no index was refused */
    for (int round = 0; round < 3; round++) {
        FN(matmul_forward)(y, x, w, b, dy, N, C, K, THREADS);
        FN(matmul_backward)(dx, dw, db, dy, x, w, N, C, K, THREADS);
        FN(layernorm_forward)(y, mean, rstd, x, w, b, N, C, (real)1e-5, THREADS);
        FN(layernorm_backward)(dx, dw, db, dy, x, w, mean, rstd, N, C, THREADS);
        FN(gelu_forward)(y, dx, x, N * C, THREADS);
        FN(gelu_backward)(dx, dy, x, 0, N * C, THREADS);
        real *scratch = some(THREADS * FN(attention_scratch)(T, D));
        refused |= 1 + FN(attention_forward)(y, lse, scratch, qkv, offsets, N, S, H, D, T, THREADS);
        refused |= 1 + FN(attention_backward)(dqkv, scratch, dy, qkv, y, lse, offsets, N, S, H, D,
                                              T, THREADS);
        free(scratch);
        real *wte = some(V * C), *wpe = some(T * C);
        refused |= 1 + FN(embedding_forward)(y, tokens, offsets, wte, wpe, N, S, C, V, T, THREADS);
        refused |= 1 + FN(embedding_backward)(wte, wpe, dy, tokens, offsets, N, S, C, V, T,
                                              THREADS);
        refused |= 1 + FN(cross_entropy_forward)(mean, rstd, y, labels, N, V, THREADS);
        refused |= 1 + FN(cross_entropy_backward)(dx, mean, y, rstd, labels, N, V, THREADS);
        FN(adamw)(dw, some(K * C), dx, dy, K * C, 1e-3, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01, THREADS);
        static double partials[N * C];
        FN(sum_squares)(partials, x, N * C, THREADS);
        real *weights = some(FN(decode_weights)(V, T, C, L)), *logits = some(S * V);
        real *cache = some(S * FN(decode_cache)(T, C, L)), *work = some(S * FN(decode_work)(T, C));
        for (int t = 0; t < 5; t++) {
            for (int i = 0; i < S; i++) positions[i] = t;
            refused |= 1 + FN(decode_forward)(logits, cache, work, weights, tokens, positions,
                                              slots, S, S, V, T, C, H, L, (real)1e-5, THREADS);
        }
    }
#ifdef PLANT
    real sum = 0;
#pragma omp parallel for num_threads(THREADS)
    for (int i = 0; i < N; i++) sum += x[i];
    printf("%g\n", (double)sum);
#endif
    printf("all kernels ran on %d threads%s\n", THREADS,
           refused ? ", but an index was refused" : "");
    return refused != 0;
}
