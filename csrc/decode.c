/* Reads one more token of one sequence or of several, with the keys and values of earlier tokens in
 * a cache.
 *
 * Each row is computed as by the kernels for whole batches, with the same additions in the same
 * order (the same tile, the same rows.h). So the logits have the bits of a full forward over the
 * sequence, whatever other sequences are read at the same time.
 *
 * The layout in memory differs. A product with few rows of x reads every weight once, and uses it
 * only once per row. So the weights are packed beforehand into panels that the tile reads from end
 * to end. For a weight w (K,C) with K = 6 outputs, C = 3 and NR = 4, where kc stands for w[k][c]:
 *
 *                     c = 0           c = 1           c = 2
 *     panel 0      00 10 20 30     01 11 21 31     02 12 22 32     outputs 0 to 3
 *     panel 1      40 50 -- --     41 51 -- --     42 52 -- --     outputs 4 and 5; -- is zero
 *
 *     w[k][c] = packed[k / NR * NR * C + c * NR + k % NR]
 *
 * Keys are in the same panels, with positions in place of outputs. Values (T,C) are in plain rows.
 * The row of a sequence in the cache, for L blocks of the model:
 *
 *     | keys 0 | values 0 | keys 1 | values 1 | ... | keys L-1 | values L-1 | 2 VL elements |
 *
 * A load of a whole vector may reach into the last 2 VL elements. Their values are not used.
 *
 * In bf16 the same holds for factors: weights are packed as pairs (factors.h), so a panel has
 * factors(C) rows. Keys, values and all of attention stay float32.
 *
 * If there are several sequences, each thread takes a share of them, MR at a time. If there is only
 * one, the threads share the columns of each large product. */
#include "kernels.h"
#include "rows.h"
#include "tile.h"

/* ---------------------------------------------------------------------- layouts and their sizes */

int64_t FN(decode_packed)(int64_t C, int64_t K) { return factors(C) * round_up(K, NR); }

/* packed is written from w (K,C). */
void FN(decode_pack)(real *packed, const real *w, int64_t C, int64_t K) {
    memset(packed, 0, (size_t)FN(decode_packed)(C, K) * sizeof(real));
    for (int64_t k = 0; k < K; k += NR)
        pack_transposed(packed + k * factors(C), NR, w + k * C, C, min(K - k, NR), C, 1);
}

/* Elements of the keys and values of one block. */
static int64_t block_cache(int64_t T, int64_t C) { return C * round_up(T, NR) + T * C; }
int64_t FN(decode_cache)(int64_t T, int64_t C, int64_t L) { return L * block_cache(T, C) + 2 * VL; }

void FN(decode_keep)(real *cache, const real *qkv, int64_t rows, int64_t first, int64_t l,
                     int64_t T, int64_t C) {
    real *keys = cache + l * block_cache(T, C), *values = keys + C * round_up(T, NR);
    for (int64_t t = first; t < first + rows; t++, qkv += 3 * C) {
        real *panel = keys + t / NR * NR * C + t % NR;
        for (int64_t c = 0; c < C; c++) panel[c * NR] = qkv[C + c];
        memcpy(values + t * C, qkv + 2 * C, (size_t)C * sizeof(real));
    }
}

/* Working memory of one row: x (C), layer norm (C), attention (C), qkv or MLP (4C), in bf16 the
 * pairs of one of these (2C), and the scores of HEADS heads, with T rounded up to whole vectors for
 * each. */
enum { HEADS = 4 };
int64_t FN(decode_work)(int64_t T, int64_t C) {
    return (TERMS == 1 ? 7 : 9) * C + HEADS * round_up(T, VL);
}

int64_t FN(decode_weights)(int64_t V, int64_t T, int64_t C, int64_t L) {
    int64_t block = FN(decode_packed)(C, 3 * C) + FN(decode_packed)(C, C) +
                    FN(decode_packed)(C, 4 * C) + FN(decode_packed)(4 * C, C) + 13 * C;
    return V * C + T * C + L * block + 2 * C + FN(decode_packed)(C, V);
}

/* ---------------------------------------------------------------------------- layers of a model */

/* Return the next `count` elements of the weights, and move *w behind them. */
INLINE const real *next_weights(const real **w, int64_t count) {
    const real *here = *w;
    *w += count;
    return here;
}

/* Columns first..last-1 of y (rows,K) = x (rows,C) wT + b + residual are written, for rows <= MR.
 * Rows of y and residual are y_row elements apart, those of x, which are factors, x_row. w is
 * packed. b and residual may be NULL. */
static void linear_columns(real *y, int64_t y_row, const real *x, int64_t x_row, const real *w,
                           const real *b, const real *residual, int rows, int64_t C,
                           int64_t first, int64_t last) {
    for (int64_t k = first; k < last; k += NR)
        for (int64_t c = 0; c < C; c += KC) { /* as in multiply_rows() of matmul.c */
            const real *from = b && c == 0 ? b + k : 0;
            const real *plus = c > 0 ? y + k : residual ? residual + k : 0;
            tile(TERMS, rows, min(last - k, NR), y + k, y_row, from, 0, plus, y_row,
                 factors(min(C - c, KC)), x + c / TERMS, x_row, 1,
                 w + k * factors(C) + c / TERMS * NR, NR);
        }
}

/* y (rows,K) = x (rows,C) wT + b + residual is written, as in linear_columns(). *weights points to
 * w, packed, which is followed by b (K) if has_bias. pairs: in bf16, room for those of x, in rows
 * that are x_row apart. */
static void linear(real *y, int64_t y_row, const real *x, int64_t x_row, real *pairs,
                   const real **weights, int has_bias, const real *residual, int rows, int64_t C,
                   int64_t K, int threads) {
    x = factors_of_rows(pairs, x_row, x, x_row, C, 0, rows);
    const real *w = next_weights(weights, FN(decode_packed)(C, K));
    const real *b = has_bias ? next_weights(weights, K) : 0;
    /* A parallel region costs a third of a microsecond, even with one thread. */
    if (threads == 1 || C * K < 1024 * 1024) {
        linear_columns(y, y_row, x, x_row, w, b, residual, rows, C, 0, K);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(K, NR, threads, thread, &first, &last);
        linear_columns(y, y_row, x, x_row, w, b, residual, rows, C, first, last);
    }
}

/* y (rows,C) = layer norm of x (rows,C) is written. Rows of both are `row` elements apart. *weights
 * points to w (C) and b (C). */
static void normalise(real *y, const real *x, int64_t row, const real **weights, int rows,
                      int64_t C, real eps) {
    const real *w = next_weights(weights, C), *b = next_weights(weights, C);
    real mean, rstd;
    for (int i = 0; i < rows; i++)
        layernorm_row(y + i * row, &mean, &rstd, x + i * row, w, b, C, eps);
}

/* y (heads,D) is written, for heads <= HEADS: the values of positions 0..t, weighted by the softmax
 * of their scores with q (heads,D), which has been scaled. score (heads,Tp) is working memory. keys
 * and values point to the first channel of the first head.
 *
 * To have the bits of head_forward() in attention.c, each element of y must be one chain of
 * additions over the positions. In a chain each addition waits for the one before it, so the chains
 * of CHAINS vectors run side by side. */
static void attend(real *y, real *score, const real *q, const real *keys, const real *values,
                   int heads, int64_t t, int64_t Tp, int64_t C, int64_t D) {
    enum { CHAINS = 4 };
    for (int h = 0; h < heads; h++) { /* score = exp(q . key - max) */
        real *s = score + h * Tp;
        for (int64_t j = 0; j <= t; j += NR)
            tile(1, 1, min(t + 1 - j, NR), s + j, 0, 0, 0, 0, 0, D, q + h * D, 0, 1,
                 keys + j * C + h * D * NR, NR);
        real max = row_max(s, t + 1);
        for (int64_t j = 0; j <= t; j += VL)
            store_part(s + j, vexp(load_part(s + j, t + 1 - j) - max), t + 1 - j);
    }
    int vectors = (int)((D + VL - 1) / VL), count = heads * vectors; /* of a head, of all heads */
    for (int first = 0; first < count; first += CHAINS) {
        vec sum[CHAINS] = {{0}}, total[CHAINS] = {{0}};
        const real *s[CHAINS], *v[CHAINS];
        for (int k = 0; k < CHAINS; k++) { /* beyond the last vector, repeat it; it is not stored */
            int i = first + k < count ? first + k : count - 1, head = i / vectors;
            s[k] = score + head * Tp, v[k] = values + head * D + i % vectors * VL;
        }
        for (int64_t j = 0; j <= t; j++)
            UNROLL for (int k = 0; k < CHAINS; k++) {
                vec p = splat(s[k][j]);
                total[k] += p;
                sum[k] += p * load(v[k] + j * C);
            }
        for (int k = 0; k < CHAINS && first + k < count; k++) {
            int64_t n = D - (first + k) % vectors * VL;
            store_part(y + (v[k] - values), sum[k] * (1 / total[k]), n);
        }
    }
}

/* ------------------------------------------------------------------------------ the whole model */

/* One token of each of `rows` <= MR sequences. logits, work, tokens, positions and slots begin with
 * the first of them. Rows of work are work_row elements apart. */
static void decode_rows(int rows, real *logits, real *cache, real *work, const real *weights,
                        const int32_t *tokens, const int32_t *positions, const int32_t *slots,
                        int64_t V, int64_t T, int64_t C, int64_t H, int64_t L, real eps,
                        int threads) {
    int64_t D = C / H, Tp = round_up(T, VL);
    int64_t work_row = FN(decode_work)(T, C), cache_row = FN(decode_cache)(T, C, L);
    real scale = (real)(1 / sqrt((double)D));
    real *x = work, *norm = x + C, *att = norm + C, *wide = att + C;
    real *pairs = wide + 4 * C, *score = pairs + (TERMS == 1 ? 0 : 2 * C);
    const real *wte = next_weights(&weights, V * C), *wpe = next_weights(&weights, T * C);
    for (int i = 0; i < rows; i++)
        for (int64_t c = 0; c < C; c++)
            x[i * work_row + c] = wte[tokens[i] * C + c] + wpe[positions[i] * C + c];
    for (int64_t l = 0; l < L; l++) {
        normalise(norm, x, work_row, &weights, rows, C, eps);
        linear(wide, work_row, norm, work_row, pairs, &weights, 1, 0, rows, C, 3 * C, threads);
        for (int i = 0; i < rows; i++) {
            real *qkv = wide + i * work_row; /* q, k, v of the new token */
            real *keys = cache + slots[i] * cache_row + l * block_cache(T, C);
            real *values = keys + C * round_up(T, NR);
            int64_t t = positions[i];
            FN(decode_keep)(cache + slots[i] * cache_row, qkv, 1, t, l, T, C);
            for (int64_t c = 0; c < C; c++) qkv[c] *= scale;
            for (int64_t h = 0; h < H; h += HEADS)
                attend(att + i * work_row + h * D, score + i * work_row, qkv + h * D,
                       keys + h * D * NR, values + h * D, (int)min(H - h, HEADS), t, Tp, C, D);
        }
        linear(x, work_row, att, work_row, pairs, &weights, 1, x, rows, C, C, threads);
        normalise(norm, x, work_row, &weights, rows, C, eps);
        linear(wide, work_row, norm, work_row, pairs, &weights, 1, 0, rows, C, 4 * C, threads);
        for (int i = 0; i < rows; i++)
            for (int64_t c = 0; c < 4 * C; c += VL) {
                real *fc = wide + i * work_row + c;
                vec v = load_part(fc, 4 * C - c);
                store_part(fc, v * gelu_gate(v), 4 * C - c);
            }
        linear(x, work_row, wide, work_row, pairs, &weights, 1, x, rows, 4 * C, C, threads);
    }
    normalise(norm, x, work_row, &weights, rows, C, eps);
    linear(logits, V, norm, work_row, pairs, &weights, 0, 0, rows, C, V, threads);
}

int64_t FN(decode_forward)(real *logits, real *cache, real *work, const real *weights,
                           const int32_t *tokens, const int32_t *positions, const int32_t *slots,
                           int64_t S, int64_t R, int64_t V, int64_t T, int64_t C, int64_t H,
                           int64_t L, real eps, int threads) {
    for (int64_t i = 0; i < S; i++) {
        if (tokens[i] < 0 || tokens[i] >= V) return i;
        if (positions[i] < 0 || positions[i] >= T) return S + i;
        if (slots[i] < 0 || slots[i] >= R || (i > 0 && slots[i] <= slots[i - 1])) return 2 * S + i;
    }
    if (S == 1) {
        decode_rows(1, logits, cache, work, weights, tokens, positions, slots, V, T, C, H, L, eps,
                    threads);
        return -1;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last, work_row = FN(decode_work)(T, C);
        share(S, 1, threads, thread, &first, &last);
        for (int64_t i = first; i < last; i += MR)
            decode_rows((int)min(last - i, MR), logits + i * V, cache, work + i * work_row, weights,
                        tokens + i, positions + i, slots + i, V, T, C, H, L, eps, 1);
    }
    return -1;
}
