/* Masked softmax-cross-entropy: nll = -log softmax(logits)[label] = lse - logits[label].
 *
 * The label -100 means "not graded": the nll, lse and dlogits of the row are exactly zero, and its
 * logits are not read.
 *
 * A training step has no such row here. The model computes logits only for the rows whose nll is
 * used (batch.wanted, see GPT.forward in nn/model.py), and these are the graded ones. The rule is
 * for callers that pass every row, such as nn/gradcases.py and measure/trace.py. */
#include "kernels.h"
#include "simd.h"

enum { IGNORE = -100 };

static int64_t first_bad_label(const int32_t *labels, int64_t N, int64_t V) {
    for (int64_t n = 0; n < N; n++)
        if (labels[n] != IGNORE && (labels[n] < 0 || labels[n] >= V)) return n;
    return -1;
}

/* nll and lse are written. The largest logit of a row is subtracted before exp, so that no
 * exponential overflows: lse = max + log sum_v exp(logits[v] - max). */
int64_t FN(cross_entropy_forward)(real *nll, real *lse, const real *logits, const int32_t *labels,
                                  int64_t N, int64_t V, int threads) {
    int64_t bad = first_bad_label(labels, N, V);
    if (bad >= 0) return bad;
    if (N * V < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < N; n++) {
        nll[n] = lse[n] = 0;
        if (labels[n] == IGNORE) continue;
        const real *row = logits + n * V;
        int64_t whole = V / VL * VL; /* elements in whole vectors */
        vec tail = whole < V ? load_tail(row + whole, V - whole, -INFINITY) : splat(-INFINITY);
        real max = row_max(row, V);
        vec total = vexp(tail - max); /* exp(-inf) = 0 in the lanes beyond the row's end */
        for (int64_t v = 0; v < whole; v += VL) total += vexp(load(row + v) - max);
        lse[n] = max + (real)log(sum_lanes(total));
        nll[n] = lse[n] - row[labels[n]];
    }
    return -1;
}

/* dlogits is written: dnll (softmax[v] - (v == label)), where softmax[v] = exp(logits[v] - lse). */
int64_t FN(cross_entropy_backward)(real *dlogits, const real *dnll, const real *logits,
                                   const real *lse, const int32_t *labels, int64_t N, int64_t V,
                                   int threads) {
    int64_t bad = first_bad_label(labels, N, V);
    if (bad >= 0) return bad;
    if (N * V < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < N; n++) {
        real *out = dlogits + n * V;
        if (labels[n] == IGNORE) {
            memset(out, 0, (size_t)V * sizeof(real));
            continue;
        }
        const real *row = logits + n * V;
        for (int64_t v = 0; v < V; v += VL)
            store_part(out + v, dnll[n] * vexp(load_part(row + v, V - v) - lse[n]), V - v);
        out[labels[n]] -= dnll[n];
    }
    return -1;
}
