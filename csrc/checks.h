/* The check of offsets, shared by several kernels. */
#ifndef PYSFT_CHECKS_H
#define PYSFT_CHECKS_H

#include <stdint.h>

/* The position of the first bad entry of cu_seqlens (S+1), or -1 if all are good. They must start
 * with 0, never fall, and end with N. No sequence may have more than `longest` rows. */
static inline int64_t first_bad_offset(const int32_t *cu_seqlens, int64_t N, int64_t S,
                                       int64_t longest) {
    if (cu_seqlens[0] != 0) return 0;
    for (int64_t s = 0; s < S; s++) {
        int64_t length = (int64_t)cu_seqlens[s + 1] - cu_seqlens[s];
        if (length < 0 || length > longest) return s + 1;
    }
    return cu_seqlens[S] == N ? -1 : S;
}

#endif
