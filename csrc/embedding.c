/* y = wte[token] + wpe[position], and the gradients of both tables.
 *
 * Several rows may have the same token. So in the backward the threads share the columns, not the
 * rows: one thread sums an element of dwte or dwpe, in the order of the rows. */
#include "kernels.h"
#include "simd.h"

/* Return the first row with a bad token, or N + the first bad offset, or -1. */
static int64_t first_bad_token(const int32_t *tokens, const int32_t *cu_seqlens, int64_t N,
                               int64_t S, int64_t V, int64_t T) {
    for (int64_t n = 0; n < N; n++)
        if (tokens[n] < 0 || tokens[n] >= V) return n;
    int64_t offset = first_bad_offset(cu_seqlens, N, S, T);
    return offset < 0 ? -1 : N + offset;
}

/* y (N,C) is written. */
int64_t FN(embedding_forward)(real *y, const int32_t *tokens, const int32_t *cu_seqlens,
                              const real *wte, const real *wpe, int64_t N, int64_t S, int64_t C,
                              int64_t V, int64_t T, int threads) {
    int64_t bad = first_bad_token(tokens, cu_seqlens, N, S, V, T);
    if (bad >= 0) return bad;
    if (N * C < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t s = 0; s < S; s++)
        for (int64_t n = cu_seqlens[s]; n < cu_seqlens[s + 1]; n++) {
            const real *token = wte + tokens[n] * C, *position = wpe + (n - cu_seqlens[s]) * C;
            real *row = y + n * C;
            for (int64_t c = 0; c < C; c++) row[c] = token[c] + position[c];
        }
    return -1;
}

/* dwte (V,C) and dwpe (T,C) are added to; either may be NULL. A row of y is the sum of two rows, so
 * its gradient goes to both. */
int64_t FN(embedding_backward)(real *dwte, real *dwpe, const real *dy, const int32_t *tokens,
                               const int32_t *cu_seqlens, int64_t N, int64_t S, int64_t C,
                               int64_t V, int64_t T, int threads) {
    int64_t bad = first_bad_token(tokens, cu_seqlens, N, S, V, T);
    if (bad >= 0) return bad;
    if (N * C < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(C, 16, threads, thread, &first, &last);
        for (int64_t s = 0; s < S; s++)
            for (int64_t n = cu_seqlens[s]; n < cu_seqlens[s + 1]; n++) {
                const real *row = dy + n * C;
                if (dwte) {
                    real *token = dwte + tokens[n] * C;
                    for (int64_t c = first; c < last; c++) token[c] += row[c];
                }
                if (dwpe) {
                    real *position = dwpe + (n - cu_seqlens[s]) * C;
                    for (int64_t c = first; c < last; c++) position[c] += row[c];
                }
            }
    }
    return -1;
}
