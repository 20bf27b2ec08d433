/* Masked softmax-cross-entropy: nll = -log softmax(logits)[label] = lse - logits[label].
 *
 * The label -100 means "not graded": the row's nll and its whole dlogits are exactly zero, and
 * its logits are not even looked at. This, and nothing else, is the loss mask of fine-tuning. */
#include "kernels.h"
#include "simd.h"

enum { IGNORE = -100 };

static int64_t first_bad(const int32_t *labels, int64_t N, int64_t V) {
    for (int64_t n = 0; n < N; n++)
        if (labels[n] != IGNORE && (labels[n] < 0 || labels[n] >= V)) return n;
    return -1;
}

int64_t FN(cross_entropy_forward)(real *nll, real *lse, const real *logits, const int32_t *labels,
                                  int64_t N, int64_t V, int threads) {
    int64_t bad = first_bad(labels, N, V), whole = V / VL * VL;
    if (bad >= 0) return bad;
    if (N * V < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < N; n++) {
        nll[n] = lse[n] = 0;
        if (labels[n] == IGNORE) continue;
        const real *row = logits + n * V;
        vec tail = whole < V ? load_tail(row + whole, V - whole, -INFINITY) : splat(-INFINITY);
        vec top = tail, total;
        for (int64_t v = 0; v < whole; v += VL) top = vmax(load(row + v), top);
        real max = max_lanes(top); /* subtracted, so that no exponential overflows */
        total = vexp(tail - max);
        for (int64_t v = 0; v < whole; v += VL) total += vexp(load(row + v) - max);
        lse[n] = max + (real)log(sum_lanes(total));
        nll[n] = lse[n] - row[labels[n]];
    }
    return -1;
}

/* d nll / d logits[v] = softmax[v] - (v == label) */
int64_t FN(cross_entropy_backward)(real *dlogits, const real *dnll, const real *logits,
                                   const real *lse, const int32_t *labels, int64_t N, int64_t V,
                                   int threads) {
    int64_t bad = first_bad(labels, N, V), whole = V / VL * VL;
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
        for (int64_t v = 0; v < whole; v += VL) store(out + v, dnll[n] * vexp(load(row + v) - lse[n]));
        if (whole < V)
            store_tail(out + whole, dnll[n] * vexp(load_tail(row + whole, V - whole, 0) - lse[n]),
                       V - whole);
        out[labels[n]] -= dnll[n];
    }
    return -1;
}
