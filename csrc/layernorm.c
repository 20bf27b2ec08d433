/* y = norm * w + b with norm = (x - mean) * rstd, rstd = 1 / sqrt(variance + eps), row by row.
 * Ba, Kiros and Hinton, Layer Normalization (2016), section 3.
 *
 * The backward of one row, with g = dy * w the gradient at norm (derived line by line in
 * pysft/nn/reference.py):  dx += rstd * (g - mean(g) - norm * mean(g * norm)). */
#include "kernels.h"
#include "simd.h"

/* The row's vector at column i; beyond C zeros, which add nothing to a sum. */
INLINE vec at(const real *row, int64_t i, int64_t C) {
    return C - i >= VL ? load(row + i) : load_tail(row + i, C - i, 0);
}
INLINE void put(real *row, vec x, int64_t i, int64_t C) {
    if (C - i >= VL) store(row + i, x);
    else store_tail(row + i, x, C - i);
}

void FN(layernorm_forward)(real *y, real *mean, real *rstd, const real *x, const real *w,
                           const real *b, int64_t N, int64_t C, real eps, int threads) {
    if (N * C < 16 * 1024) threads = 1;
    int64_t whole = C / VL * VL;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const real *row = x + n * C;
        vec total = {0}, squares = {0};
        for (int64_t i = 0; i < C; i += VL) total += at(row, i, C);
        real mu = sum_lanes(total) / (real)C;
        for (int64_t i = 0; i < whole; i += VL) {
            vec d = load(row + i) - mu;
            squares += d * d;
        }
        if (whole < C) { /* the lanes that do not exist hold the mean: they are no deviation */
            vec d = load_tail(row + whole, C - whole, mu) - mu;
            squares += d * d;
        }
        real rs = (real)1 / (real)sqrt(sum_lanes(squares) / (real)C + eps);
        for (int64_t i = 0; i < C; i += VL)
            put(y + n * C, (at(row, i, C) - mu) * rs * at(w, i, C) + at(b, i, C), i, C);
        mean[n] = mu;
        rstd[n] = rs;
    }
}

void FN(layernorm_backward)(real *dx, real *dw, real *db, const real *dy, const real *x,
                            const real *w, const real *mean, const real *rstd, int64_t N, int64_t C,
                            int threads) {
    if (N * C < 16 * 1024) threads = 1;
    if (dx) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t n = 0; n < N; n++) {
            const real *row = x + n * C, *dyn = dy + n * C;
            real mu = mean[n], rs = rstd[n];
            vec sum_g = {0}, sum_gn = {0};
            for (int64_t i = 0; i < C; i += VL) {
                vec g = at(dyn, i, C) * at(w, i, C); /* zero in the lanes that do not exist */
                sum_g += g;
                sum_gn += g * ((at(row, i, C) - mu) * rs);
            }
            real mean_g = sum_lanes(sum_g) / (real)C, mean_gn = sum_lanes(sum_gn) / (real)C;
            for (int64_t i = 0; i < C; i += VL) {
                vec g = at(dyn, i, C) * at(w, i, C), norm = (at(row, i, C) - mu) * rs;
                put(dx + n * C, at(dx + n * C, i, C) + rs * (g - mean_g - norm * mean_gn), i, C);
            }
        }
    }
    if (!dw && !db) return;
    enum { ROWS = 64 }; /* sums over rows are formed in blocks, in order; columns over threads */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < C; i += VL) {
        int64_t columns = C - i < VL ? C - i : VL;
        vec total_w = dw ? load_tail(dw + i, columns, 0) : splat(0);
        vec total_b = db ? load_tail(db + i, columns, 0) : splat(0);
        for (int64_t n0 = 0; n0 < N; n0 += ROWS) {
            vec block_w = {0}, block_b = {0};
            for (int64_t n = n0; n < N && n < n0 + ROWS; n++) {
                vec g = at(dy + n * C, i, C);
                block_w += g * ((at(x + n * C, i, C) - mean[n]) * rstd[n]);
                block_b += g;
            }
            total_w += block_w;
            total_b += block_b;
        }
        if (dw) store_tail(dw + i, total_w, columns);
        if (db) store_tail(db + i, total_b, columns);
    }
}
