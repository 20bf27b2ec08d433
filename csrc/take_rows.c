/* Some rows of x, gathered; and their gradients brought back to where they came from. This is how the
 * last block leaves out the rows that nobody wants. */
#include "kernels.h"
#include "simd.h"

static int64_t first_bad(const int32_t *rows, int64_t N, int64_t M) {
    for (int64_t m = 0; m < M; m++)
        if (rows[m] < (m ? rows[m - 1] + 1 : 0) || rows[m] >= N) return m;
    return -1;
}

int64_t FN(take_rows_forward)(real *y, const real *x, const int32_t *rows, int64_t N, int64_t M, int64_t C,
                              int threads) {
    int64_t bad = first_bad(rows, N, M);
    if (bad >= 0) return bad;
    if (M * C < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t m = 0; m < M; m++) memcpy(y + m * C, x + rows[m] * C, (size_t)C * sizeof(real));
    return -1;
}

/* rows rise, so no two of them name the same row of dx. */
int64_t FN(take_rows_backward)(real *dx, const real *dy, const int32_t *rows, int64_t N, int64_t M, int64_t C,
                               int threads) {
    int64_t bad = first_bad(rows, N, M);
    if (bad >= 0) return bad;
    if (M * C < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t m = 0; m < M; m++) {
        real *row = dx + rows[m] * C;
        for (int64_t c = 0; c < C; c++) row[c] += dy[m * C + c];
    }
    return -1;
}
