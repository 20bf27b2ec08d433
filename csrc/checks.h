/* Checks of indices, shared by several kernels. Each returns the position of the first bad entry,
 * or -1 if all are good. */
#ifndef PYSFT_CHECKS_H
#define PYSFT_CHECKS_H

#include <stdint.h>

/* cu_seqlens (S+1) must start with 0, never fall, and end with N. No sequence may have more than
 * `longest` rows. */
static inline int64_t first_bad_offset(const int32_t *cu_seqlens, int64_t N, int64_t S,
                                       int64_t longest) {
    if (cu_seqlens[0] != 0) return 0;
    for (int64_t s = 0; s < S; s++) {
        int64_t length = (int64_t)cu_seqlens[s + 1] - cu_seqlens[s];
        if (length < 0 || length > longest) return s + 1;
    }
    return cu_seqlens[S] == N ? -1 : S;
}

/* rows (M) must be in 0..N-1 and rise, so that no row is named twice. */
static inline int64_t first_bad_row(const int32_t *rows, int64_t N, int64_t M) {
    for (int64_t m = 0; m < M; m++)
        if (rows[m] < (m ? rows[m - 1] + 1 : 0) || rows[m] >= N) return m;
    return -1;
}

#endif
