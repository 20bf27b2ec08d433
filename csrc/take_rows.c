/* Copies chosen rows of x, and adds their gradients to the rows that they came from. With it the
 * last block of the model leaves out rows that are not wanted (last_block_forward in
 * nn/model.py). */
#include "kernels.h"
#include "checks.h"
#include "simd.h"

/* y (M,C) is written: y[m] = x[rows[m]]. */
int64_t FN(take_rows_forward)(real *y, const real *x, const int32_t *rows, int64_t N, int64_t M,
                              int64_t C, int threads) {
    int64_t bad = first_bad_row(rows, N, M);
    if (bad >= 0) return bad;
    if (M * C < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t m = 0; m < M; m++)
        memcpy(y + m * C, x + rows[m] * C, (size_t)C * sizeof(real));
    return -1;
}

/* dx (N,C) is added to: dx[rows[m]] += dy[m]. rows rise, so no two threads write the same row. */
int64_t FN(take_rows_backward)(real *dx, const real *dy, const int32_t *rows, int64_t N, int64_t M,
                               int64_t C, int threads) {
    int64_t bad = first_bad_row(rows, N, M);
    if (bad >= 0) return bad;
    if (M * C < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t m = 0; m < M; m++) {
        real *row = dx + rows[m] * C;
        for (int64_t c = 0; c < C; c++) row[c] += dy[m * C + c];
    }
    return -1;
}
