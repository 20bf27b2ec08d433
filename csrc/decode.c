/* One more token of one sequence or of many, with the keys and values of those before it in a cache.
 *
 * Row by row this does what the kernels for whole batches do, with the same additions in the same order
 * (the same tile, the same rows.h), so the logits have the bits of a full forward over the sequence,
 * whatever other sequences go along. What differs is where things lie: a product with few rows of x reads
 * every weight once and uses it once a row, so the weights are packed beforehand into the panels that the
 * tile reads from end to end, and keys are kept transposed, position by position in the lanes. Of several
 * sequences each thread takes a share, MR at a time; of a single one the threads share the columns. */
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

/* In each block keys in panels of NR positions, each (C,NR), and values (T,C); and two vectors to read beyond the last. */
static int64_t block_cache(int64_t T, int64_t C) { return C * round_up(T, NR) + T * C; }
int64_t FN(decode_cache)(int64_t T, int64_t C, int64_t L) { return L * block_cache(T, C) + 2 * VL; }
/* A row's x (C), its layer norm (C), attention (C), qkv or MLP (4C), and scores of HEADS heads (each T up to vectors). */
enum { HEADS = 4 };
int64_t FN(decode_work)(int64_t T, int64_t C) { return 7 * C + HEADS * round_up(T, VL); }
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

/* Rows of x, y and residual are x_row, y_row and y_row elements apart. */
static void product_columns(real *y, int64_t y_row, const real *x, int64_t x_row, const real *w, const real *b,
                            const real *residual, int rows, int64_t C, int64_t first, int64_t last) {
    for (int64_t k = first; k < last; k += NR)
        for (int64_t c = 0; c < C; c += DEPTH)
            tile(rows, last - k < NR ? last - k : NR, y + k, y_row, b && c == 0 ? b + k : 0, 0,
                 c > 0 ? y + k : residual ? residual + k : 0, y_row, C - c < DEPTH ? C - c : DEPTH, x + c, x_row, 1,
                 w + k * C + c * NR, NR);
}
/* y (rows,K) = x (rows,C) wT + b + residual, packed w from *weights, which moves on; so does b if `biased`. */
static void product(real *y, int64_t y_row, const real *x, int64_t x_row, const real **weights, int biased,
                    const real *residual, int rows, int64_t C, int64_t K, int threads) {
    const real *w = next(weights, FN(decode_packed)(C, K)), *b = biased ? next(weights, K) : 0;
    if (threads == 1 || C * K < 1024 * 1024) { /* a parallel region costs a third of a microsecond even for one */
        product_columns(y, y_row, x, x_row, w, b, residual, rows, C, 0, K);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(K, NR, threads, thread, &first, &last);
        product_columns(y, y_row, x, x_row, w, b, residual, rows, C, first, last);
    }
}

/* y (heads,D) = each head's mean of the values, weighted by the softmax of the scores of q (heads,D) with positions
 * 0..t. The bits ask for one chain of additions over the positions for each element, and a chain waits for every
 * addition of its own, so those of HEADS vectors run side by side. score: of each head, Tp apart. */
static void attend(real *y, real *score, const real *q, const real *keys, const real *values, int heads, int64_t t,
                   int64_t Tp, int64_t C, int64_t D) {
    for (int h = 0; h < heads; h++) {
        real *s = score + h * Tp;
        vec top = splat(-INFINITY);
        for (int64_t j = 0; j <= t; j += NR) {
            int64_t columns = t + 1 - j < NR ? t + 1 - j : NR;
            tile(1, columns, s + j, 0, 0, 0, 0, 0, D, q + h * D, 0, 1, keys + j * C + h * D * NR, NR);
            for (int64_t i = 0; i < columns; i += VL)
                top = vmax(columns - i >= VL ? load(s + j + i) : load_tail(s + j + i, columns - i, -INFINITY), top);
        }
        real max = max_lanes(top);
        for (int64_t j = 0; j <= t; j += VL) store_part(s + j, vexp(load_part(s + j, t + 1 - j) - max), t + 1 - j);
    }
    int vectors = (int)((D + VL - 1) / VL), count = heads * vectors;
    for (int first = 0; first < count; first += HEADS) {
        vec sum[HEADS] = {{0}}, total[HEADS] = {{0}};
        const real *s[HEADS], *v[HEADS];
        for (int k = 0; k < HEADS; k++) { /* beyond the last vector it comes again, and is not kept */
            int i = first + k < count ? first + k : count - 1, head = i / vectors;
            s[k] = score + head * Tp, v[k] = values + head * D + i % vectors * VL;
        }
        for (int64_t j = 0; j <= t; j++)
            UNROLL for (int k = 0; k < HEADS; k++) {
                vec p = splat(s[k][j]);
                total[k] += p;
                sum[k] += p * load(v[k] + j * C);
            }
        for (int k = 0; k < HEADS && first + k < count; k++)
            store_part(y + (v[k] - values), sum[k] * (1 / total[k]), D - (first + k) % vectors * VL);
    }
}

/* `rows` <= MR sequences, their working memory W elements apart. */
static void decode_rows(int rows, real *logits, real *cache, real *work, const real *weights, const int32_t *tokens,
                        const int32_t *positions, const int32_t *slots, int64_t V, int64_t T, int64_t C, int64_t H,
                        int64_t L, real eps, int threads) {
    int64_t D = C / H, Tp = round_up(T, VL), W = FN(decode_work)(T, C), one = FN(decode_cache)(T, C, L);
    real scale = (real)(1 / sqrt((double)D)), mean, rstd;
    real *x = work, *norm = x + C, *att = norm + C, *wide = att + C, *score = wide + 4 * C;
    const real *words = next(&weights, V * C), *places = next(&weights, T * C), *w, *b;
    for (int i = 0; i < rows; i++)
        for (int64_t c = 0; c < C; c++) x[i * W + c] = words[tokens[i] * C + c] + places[positions[i] * C + c];
    for (int64_t l = 0; l < L; l++) {
        w = next(&weights, C), b = next(&weights, C);
        for (int i = 0; i < rows; i++) layernorm_row(norm + i * W, &mean, &rstd, x + i * W, w, b, C, eps);
        product(wide, W, norm, W, &weights, 1, 0, rows, C, 3 * C, threads);
        for (int i = 0; i < rows; i++) {
            real *qkv = wide + i * W, *keys = cache + slots[i] * one + l * block_cache(T, C), *values = keys + C * round_up(T, NR);
            int64_t t = positions[i];
            real *panel = keys + t / NR * NR * C + t % NR;
            for (int64_t c = 0; c < C; c++) panel[c * NR] = qkv[C + c], qkv[c] *= scale;
            memcpy(values + t * C, qkv + 2 * C, (size_t)C * sizeof(real));
            for (int64_t h = 0; h < H; h += HEADS)
                attend(att + i * W + h * D, score + i * W, qkv + h * D, keys + h * D * NR, values + h * D,
                       H - h < HEADS ? (int)(H - h) : HEADS, t, Tp, C, D);
        }
        product(x, W, att, W, &weights, 1, x, rows, C, C, threads);
        w = next(&weights, C), b = next(&weights, C);
        for (int i = 0; i < rows; i++) layernorm_row(norm + i * W, &mean, &rstd, x + i * W, w, b, C, eps);
        product(wide, W, norm, W, &weights, 1, 0, rows, C, 4 * C, threads);
        for (int i = 0; i < rows; i++)
            for (int64_t c = 0; c < 4 * C; c += VL) {
                real *fc = wide + i * W + c;
                vec here = load_part(fc, 4 * C - c);
                store_part(fc, here * gelu_gate(here), 4 * C - c);
            }
        product(x, W, wide, W, &weights, 1, x, rows, 4 * C, C, threads);
    }
    w = next(&weights, C), b = next(&weights, C);
    for (int i = 0; i < rows; i++) layernorm_row(norm + i * W, &mean, &rstd, x + i * W, w, b, C, eps);
    product(logits, V, norm, W, &weights, 0, 0, rows, C, V, threads);
}

int64_t FN(decode_forward)(real *logits, real *cache, real *work, const real *weights, const int32_t *tokens,
                           const int32_t *positions, const int32_t *slots, int64_t S, int64_t R, int64_t V, int64_t T,
                           int64_t C, int64_t H, int64_t L, real eps, int threads) {
    for (int64_t i = 0; i < S; i++) {
        if (tokens[i] < 0 || tokens[i] >= V) return i;
        if (positions[i] < 0 || positions[i] >= T) return S + i;
        if (slots[i] < 0 || slots[i] >= R || (i > 0 && slots[i] <= slots[i - 1])) return 2 * S + i;
    }
    if (S == 1) {
        decode_rows(1, logits, cache, work, weights, tokens, positions, slots, V, T, C, H, L, eps, threads);
        return -1;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last, W = FN(decode_work)(T, C);
        share(S, 1, threads, thread, &first, &last);
        for (int64_t i = first; i < last; i += MR)
            decode_rows(last - i < MR ? (int)(last - i) : MR, logits + i * V, cache, work + i * W, weights, tokens + i,
                        positions + i, slots + i, V, T, C, H, L, eps, 1);
    }
    return -1;
}
