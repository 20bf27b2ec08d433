/* y = norm * w + b with norm = (x - mean) * rstd and rstd = 1 / sqrt(variance + eps), row by row.
 * Ba, Kiros and Hinton, Layer Normalization (2016), section 3.
 *
 * The backward of one row, with g = dy * w the gradient at norm (derived line by line in
 * pysft/nn/reference.py):
 *
 *     dx += rstd * (g - mean(g) - norm * mean(g * norm))
 *     dw += dy * norm         db += dy
 *
 * For dx the threads share the rows. dw and db are sums over rows, so for these the threads share
 * the columns. */
#include "kernels.h"
#include "rows.h"

/* y (N,C), mean (N) and rstd (N) are written. */
void FN(layernorm_forward)(real *y, real *mean, real *rstd, const real *x, const real *w,
                           const real *b, int64_t N, int64_t C, real eps, int threads) {
    if (N * C < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < N; n++)
        layernorm_row(y + n * C, mean + n, rstd + n, x + n * C, w, b, C, eps);
}

/* Add to rows first..last-1 of dx. In lanes beyond C, g is 0. */
static void backward_rows(real *dx, const real *dy, const real *x, const real *w, const real *mean,
                          const real *rstd, int64_t C, int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n++) {
        const real *row = x + n * C, *dyn = dy + n * C;
        real mu = mean[n], rs = rstd[n];
        vec sum_g = {0}, sum_gn = {0};
        for (int64_t i = 0; i < C; i += VL) {
            vec g = load_part(dyn + i, C - i) * load_part(w + i, C - i);
            vec norm = (load_part(row + i, C - i) - mu) * rs;
            sum_g += g;
            sum_gn += g * norm;
        }
        real mean_g = sum_lanes(sum_g) / (real)C, mean_gn = sum_lanes(sum_gn) / (real)C;
        for (int64_t i = 0; i < C; i += VL) {
            vec g = load_part(dyn + i, C - i) * load_part(w + i, C - i);
            vec norm = (load_part(row + i, C - i) - mu) * rs;
            real *out = dx + n * C + i;
            store_part(out, load_part(out, C - i) + rs * (g - mean_g - norm * mean_gn), C - i);
        }
    }
}

/* Add to columns first..last-1 of dw and db; either may be NULL. The rows are summed in order, in
 * blocks of BLOCK rows. */
static void backward_columns(real *dw, real *db, const real *dy, const real *x, const real *mean,
                             const real *rstd, int64_t N, int64_t C, int64_t first, int64_t last) {
    enum { BLOCK = 64 };
    for (int64_t i = first; i < last; i += VL) {
        vec total_w = dw ? load_part(dw + i, last - i) : splat(0);
        vec total_b = db ? load_part(db + i, last - i) : splat(0);
        for (int64_t n0 = 0; n0 < N; n0 += BLOCK) {
            vec block_w = {0}, block_b = {0};
            for (int64_t n = n0; n < N && n < n0 + BLOCK; n++) {
                vec dyn = load_part(dy + n * C + i, last - i);
                vec norm = (load_part(x + n * C + i, last - i) - mean[n]) * rstd[n];
                block_w += dyn * norm;
                block_b += dyn;
            }
            total_w += block_w;
            total_b += block_b;
        }
        if (dw) store_part(dw + i, total_w, last - i);
        if (db) store_part(db + i, total_b, last - i);
    }
}

void FN(layernorm_backward)(real *dx, real *dw, real *db, const real *dy, const real *x,
                            const real *w, const real *mean, const real *rstd, int64_t N, int64_t C,
                            int threads) {
    if (N * C < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(N, 1, threads, thread, &first, &last);
        if (dx) backward_rows(dx, dy, x, w, mean, rstd, C, first, last);
        share(C, VL, threads, thread, &first, &last);
        if (dw || db) backward_columns(dw, db, dy, x, mean, rstd, N, C, first, last);
    }
}
