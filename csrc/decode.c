/* One more token of one sequence, with the keys and values of those before it in a cache.
 *
 * Row by row this does what the kernels for whole batches do, with the same additions in the same order
 * (the same tile, the same rows.h), so the logits have the bits of a full forward over the sequence.
 * What differs is where things lie: a product with one row of x reads every weight once and uses it
 * once, so the weights are packed beforehand into the panels that the tile reads from end to end, and
 * keys are kept transposed, position by position in the lanes. */
#include "kernels.h"
#include "rows.h"
#include "tile.h"

/* Of w (K,C): panels of NR outputs, each (C,NR), the last filled up with zeros. */
int64_t FN(decode_packed)(int64_t C, int64_t K) { return C * round_up(K, NR); }
void FN(decode_pack)(real *packed, const real *w, int64_t C, int64_t K) {
    memset(packed, 0, (size_t)FN(decode_packed)(C, K) * sizeof(real));
    for (int64_t k = 0; k < K; k += NR)
        pack_transposed(packed + k * C, NR, w + k * C, C, K - k < NR ? K - k : NR, C, 1);
}

/* In each block keys (C,T up to vectors) and values (T,C), two vectors to read beyond the last of them, and
 * the working memory of a token. */
static int64_t block_cache(int64_t T, int64_t C) { return C * round_up(T, VL) + T * C; }
int64_t FN(decode_cache)(int64_t T, int64_t C, int64_t L) {
    return L * block_cache(T, C) + 2 * VL + 7 * C + round_up(T, VL);
}
int64_t FN(decode_weights)(int64_t V, int64_t T, int64_t C, int64_t L) {
    int64_t block = FN(decode_packed)(C, 3 * C) + FN(decode_packed)(C, C) + FN(decode_packed)(C, 4 * C) +
                    FN(decode_packed)(4 * C, C) + 13 * C;
    return V * C + T * C + L * block + 2 * C + FN(decode_packed)(C, V);
}

/* The next `count` elements of the weights. */
INLINE const real *next(const real **w, int64_t count) {
    const real *here = *w;
    *w += count;
    return here;
}

static void product_columns(real *y, const real *x, const real *w, const real *b, const real *residual, int64_t C,
                            int64_t K, int64_t first, int64_t last) {
    for (int64_t k = first; k < last; k += NR)
        for (int64_t c = 0; c < C; c += DEPTH)
            tile(1, K - k < NR ? K - k : NR, y + k, 0, b && c == 0 ? b + k : 0, 0, c > 0 ? y + k : residual ? residual + k : 0,
                 0, C - c < DEPTH ? C - c : DEPTH, x + c, 0, 1, w + k * C + c * NR, NR);
}
/* y (K) = x (C) wT + b + residual, packed w from *weights, which moves on; so does b if `biased`. */
static void product(real *y, const real *x, const real **weights, int biased, const real *residual, int64_t C,
                    int64_t K, int threads) {
    const real *w = next(weights, FN(decode_packed)(C, K)), *b = biased ? next(weights, K) : 0;
    if (threads == 1 || C * K < 1024 * 1024) { /* a parallel region costs a third of a microsecond even for one */
        product_columns(y, x, w, b, residual, C, K, 0, K);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(K, NR, threads, thread, &first, &last);
        product_columns(y, x, w, b, residual, C, K, first, last);
    }
}

/* y (D) = the values' mean, weighted by the softmax of the scores of q (D) with positions 0..t. */
static void attend(real *y, real *score, const real *q, const real *keys, const real *values, int64_t t, int64_t Tp,
                   int64_t C, int64_t D) {
    vec top = splat(-INFINITY);
    for (int64_t j = 0; j <= t; j += NR) {
        int64_t columns = t + 1 - j < NR ? t + 1 - j : NR;
        tile(1, columns, score + j, 0, 0, 0, 0, 0, D, q, 0, 1, keys + j, Tp);
        for (int64_t i = 0; i < columns; i += VL)
            top = vmax(columns - i >= VL ? load(score + j + i) : load_tail(score + j + i, columns - i, -INFINITY), top);
    }
    real max = max_lanes(top), total = 0;
    for (int64_t j = 0; j <= t; j += VL) store_part(score + j, vexp(load_part(score + j, t + 1 - j) - max), t + 1 - j);
    for (int64_t j = 0; j <= t; j++) total += score[j];
    for (int64_t d = 0; d < D; d += NR)
        tile(1, D - d < NR ? D - d : NR, y + d, 0, 0, 0, 0, 0, t + 1, score, 0, 1, values + d, C);
    for (int64_t d = 0; d < D; d += VL) store_part(y + d, load_part(y + d, D - d) * (1 / total), D - d);
}

int64_t FN(decode_forward)(real *logits, real *cache, const real *weights, int64_t token, int64_t position,
                           int64_t V, int64_t T, int64_t C, int64_t H, int64_t L, real eps, int threads) {
    if (token < 0 || token >= V) return 0;
    if (position < 0 || position >= T) return 1;
    int64_t D = C / H, Tp = round_up(T, VL);
    real scale = (real)(1 / sqrt((double)D)), mean, rstd;
    real *x = cache + L * block_cache(T, C) + 2 * VL, *norm = x + C, *att = norm + C, *wide = att + C, *score = wide + 4 * C;
    real *qkv = wide, *fc = wide;
    const real *word = next(&weights, V * C) + token * C, *place = next(&weights, T * C) + position * C;
    for (int64_t c = 0; c < C; c++) x[c] = word[c] + place[c];
    for (int64_t l = 0; l < L; l++) {
        real *keys = cache + l * block_cache(T, C), *values = keys + C * Tp;
        const real *w = next(&weights, C), *b = next(&weights, C);
        layernorm_row(norm, &mean, &rstd, x, w, b, C, eps);
        product(qkv, norm, &weights, 1, 0, C, 3 * C, threads);
        for (int64_t c = 0; c < C; c++) keys[c * Tp + position] = qkv[C + c], qkv[c] *= scale;
        memcpy(values + position * C, qkv + 2 * C, (size_t)C * sizeof(real));
        for (int64_t h = 0; h < H; h++)
            attend(att + h * D, score, qkv + h * D, keys + h * D * Tp, values + h * D, position, Tp, C, D);
        product(x, att, &weights, 1, x, C, C, threads);
        w = next(&weights, C), b = next(&weights, C);
        layernorm_row(norm, &mean, &rstd, x, w, b, C, eps);
        product(fc, norm, &weights, 1, 0, C, 4 * C, threads);
        for (int64_t i = 0; i < 4 * C; i += VL) {
            vec here = load_part(fc + i, 4 * C - i);
            store_part(fc + i, here * gelu_gate(here), 4 * C - i);
        }
        product(x, fc, &weights, 1, x, 4 * C, C, threads);
    }
    const real *w = next(&weights, C), *b = next(&weights, C);
    layernorm_row(norm, &mean, &rstd, x, w, b, C, eps);
    product(logits, norm, &weights, 0, 0, C, V, threads);
    return -1;
}
