/* y = wte[token] + wpe[position], and the rows' gradients gathered back.
 *
 * Many rows may name the same token, so in the backward columns, not rows, are shared among the
 * threads: each element of dwte and dwpe is summed by one thread, in the order of the rows. */
#include "kernels.h"
#include "simd.h"

static int64_t first_bad(const int32_t *tokens, const int32_t *cu_seqlens, int64_t N, int64_t S,
                         int64_t V, int64_t T) {
    for (int64_t n = 0; n < N; n++)
        if (tokens[n] < 0 || tokens[n] >= V) return n;
    if (cu_seqlens[0] != 0) return N;
    for (int64_t s = 0; s < S; s++)
        if (cu_seqlens[s + 1] < cu_seqlens[s] || cu_seqlens[s + 1] - cu_seqlens[s] > T)
            return N + s + 1;
    return cu_seqlens[S] == N ? -1 : N + S;
}

int64_t FN(embedding_forward)(real *y, const int32_t *tokens, const int32_t *cu_seqlens,
                              const real *wte, const real *wpe, int64_t N, int64_t S, int64_t C,
                              int64_t V, int64_t T, int threads) {
    int64_t bad = first_bad(tokens, cu_seqlens, N, S, V, T);
    if (bad >= 0) return bad;
    if (N * C < 64 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t s = 0; s < S; s++)
        for (int64_t n = cu_seqlens[s]; n < cu_seqlens[s + 1]; n++) {
            const real *word = wte + tokens[n] * C, *place = wpe + (n - cu_seqlens[s]) * C;
            real *row = y + n * C;
            for (int64_t c = 0; c < C; c++) row[c] = word[c] + place[c];
        }
    return -1;
}

int64_t FN(embedding_backward)(real *dwte, real *dwpe, const real *dy, const int32_t *tokens,
                               const int32_t *cu_seqlens, int64_t N, int64_t S, int64_t C, int64_t V,
                               int64_t T, int threads) {
    int64_t bad = first_bad(tokens, cu_seqlens, N, S, V, T);
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
                    real *word = dwte + tokens[n] * C;
                    for (int64_t c = first; c < last; c++) word[c] += row[c];
                }
                if (dwpe) {
                    real *place = dwpe + (n - cu_seqlens[s]) * C;
                    for (int64_t c = first; c < last; c++) place[c] += row[c];
                }
            }
    }
    return -1;
}
