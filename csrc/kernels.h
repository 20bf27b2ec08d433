/* Every kernel's prototype, once: the compiler includes this file, and pysft/nn/_build.py reads its
 * text and stamps it twice, `real` as float and as double, to tell cffi what there is to call.
 *
 * Letters: N token rows, C channels in, K channels out, H heads, D = C/H channels of a head,
 * V symbols of the vocabulary, T positions of the context, S sequences.
 * Arrays are row-major and contiguous. cu_seqlens (S+1) holds the rising offsets of the sequences
 * among the N rows: cu_seqlens[0] = 0, cu_seqlens[S] = N.
 *
 * The order of arguments: what is written, what is read, sizes, scalars, threads.
 * A backward lists its gradients in the order of the forward's inputs, then the upstream gradient,
 * then what the forward read and saved. NULL for a gradient means that nobody wants it, NULL for a
 * bias or a residual that there is none.
 *
 * Parameter gradients ADD to what stands there; activation gradients are WRITTEN. The one exception
 * is what has more than one reader: layernorm_backward and take_rows_backward ADD their dx, for the
 * gradient of the others (the residual stream) already waits there.
 *
 * Determinism: one thread computes an output element from start to end, in an order that does not
 * depend on the number of threads. So results have the same bits for any `threads`, and a row's
 * forward has the same bits in any batch.
 *
 * Nothing here allocates, prints, exits or keeps state. Functions that follow an index (a token, a
 * label, an offset) check all of them first and return the position of the first bad one, having
 * written nothing; -1 means that all were good. */
#ifndef PYSFT_KERNELS_H
#define PYSFT_KERNELS_H

#include "real.h"

/* matmul.c: y (N,K) = x (N,C) wT + b (K) [+ residual (N,K)], with w (K,C).
 * dx (N,C) = dy w is written; dw (K,C) += dyT x and db (K) += the column sums of dy are added. */
void FN(matmul_forward)(real *y, const real *x, const real *w, const real *b, const real *residual,
                        int64_t N, int64_t C, int64_t K, int threads);
void FN(matmul_backward)(real *dx, real *dw, real *db, const real *dy, const real *x, const real *w,
                         int64_t N, int64_t C, int64_t K, int threads);

/* attention.c: causal self-attention of H heads inside each sequence. Row n's key and value stand side
 * by side at kv[n * kv_row]; row m of y (M,C) and of lse (M,H) answers the query at q[m * q_row], which
 * stands at row rows[m] (M, rising), or at row m where rows is NULL and M = N. lse is the log of the
 * sum of exponentials of each query's scaled scores, all that the backward needs to find the
 * probabilities again. scratch holds `threads` pieces of attention_scratch(longest, D) elements. dq and
 * dkv, laid out as q and kv, are written. Both return the first bad offset of cu_seqlens (no sequence
 * may have more than `longest` rows), or S + 1 + the first bad one of rows, or -1. */
int64_t FN(attention_scratch)(int64_t longest, int64_t D);
int64_t FN(attention_forward)(real *y, real *lse, real *scratch, const real *q, const real *kv,
                              const int32_t *cu_seqlens, const int32_t *rows, int64_t N, int64_t S,
                              int64_t M, int64_t H, int64_t D, int64_t q_row, int64_t kv_row,
                              int64_t longest, int threads);
int64_t FN(attention_backward)(real *dq, real *dkv, real *scratch, const real *dy, const real *q,
                               const real *kv, const real *y, const real *lse,
                               const int32_t *cu_seqlens, const int32_t *rows, int64_t N, int64_t S,
                               int64_t M, int64_t H, int64_t D, int64_t q_row, int64_t kv_row,
                               int64_t longest, int threads);

/* layernorm.c: y (N,C) = (x - mean) rstd w + b over each row; mean (N), rstd (N) are saved.
 * dx is ADDED (see above), dw (C) and db (C) are added. */
void FN(layernorm_forward)(real *y, real *mean, real *rstd, const real *x, const real *w,
                           const real *b, int64_t N, int64_t C, real eps, int threads);
void FN(layernorm_backward)(real *dx, real *dw, real *db, const real *dy, const real *x,
                            const real *w, const real *mean, const real *rstd, int64_t N, int64_t C,
                            int threads);

/* gelu.c: y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), element by element over n. dydx, if
 * not NULL, is written: the derivative. The backward takes x, or, where that is NULL, dydx.
 * y or dydx may be x itself, dx may be dy itself. */
void FN(gelu_forward)(real *y, real *dydx, const real *x, int64_t n, int threads);
void FN(gelu_backward)(real *dx, const real *dy, const real *x, const real *dydx, int64_t n, int threads);

/* embedding.c: y (N,C) = wte[token] + wpe[position inside the sequence]; wte (V,C), wpe (T,C).
 * dwte and dwpe are added. Both return the first row whose token is not in 0..V-1, or N + the first
 * offset of cu_seqlens that falls or makes a sequence longer than T, or -1. */
int64_t FN(embedding_forward)(real *y, const int32_t *tokens, const int32_t *cu_seqlens,
                              const real *wte, const real *wpe, int64_t N, int64_t S, int64_t C,
                              int64_t V, int64_t T, int threads);
int64_t FN(embedding_backward)(real *dwte, real *dwpe, const real *dy, const int32_t *tokens,
                               const int32_t *cu_seqlens, int64_t N, int64_t S, int64_t C, int64_t V,
                               int64_t T, int threads);

/* take_rows.c: y (M,C) = x (N,C) at rows (M), which rise. dx (N,C) is ADDED at those rows (see above).
 * Both return the first of rows that does not rise or does not exist, or -1. */
int64_t FN(take_rows_forward)(real *y, const real *x, const int32_t *rows, int64_t N, int64_t M, int64_t C, int threads);
int64_t FN(take_rows_backward)(real *dx, const real *dy, const int32_t *rows, int64_t N, int64_t M, int64_t C, int threads);

/* cross_entropy.c: nll (N) = lse - logits[label], where lse (N) = log sum exp logits (N,V); a row
 * whose label is -100 is not graded: its nll is 0 and its dlogits are 0. dlogits = dnll (softmax -
 * onehot) is written and may be logits itself. Both return the first row whose label is neither
 * -100 nor in 0..V-1, or -1. */
int64_t FN(cross_entropy_forward)(real *nll, real *lse, const real *logits, const int32_t *labels,
                                  int64_t N, int64_t V, int threads);
int64_t FN(cross_entropy_backward)(real *dlogits, const real *dnll, const real *logits,
                                   const real *lse, const int32_t *labels, int64_t N, int64_t V,
                                   int threads);

/* decode.c: one more token of each of S sequences, of a model of L blocks: logits (S,V) behind the token tokens[i] at
 * positions[i] of the sequence whose keys and values stand in row slots[i] of cache (R, decode_cache), to which this one's
 * are added. slots rise. weights: wte, wpe; for each block ln1.w, ln1.b, qkv.w packed, qkv.b, attproj.w packed, attproj.b,
 * ln2.w, ln2.b, fc.w packed, fc.b, fcproj.w packed, fcproj.b; then lnf.w, lnf.b, head packed. decode_pack makes packed, of
 * decode_packed(C, K) elements, from w (K,C). decode_weights: elements of the whole; decode_cache and decode_work: of a
 * sequence. Returns i where token i is not in 0..V-1, S + i for a position that is not in 0..T-1, 2 S + i for a slot that
 * is not above the one before it and below R; else -1. */
int64_t FN(decode_packed)(int64_t C, int64_t K);
void FN(decode_pack)(real *packed, const real *w, int64_t C, int64_t K);
int64_t FN(decode_weights)(int64_t V, int64_t T, int64_t C, int64_t L);
int64_t FN(decode_cache)(int64_t T, int64_t C, int64_t L);
int64_t FN(decode_work)(int64_t T, int64_t C);
int64_t FN(decode_forward)(real *logits, real *cache, real *work, const real *weights, const int32_t *tokens,
                           const int32_t *positions, const int32_t *slots, int64_t S, int64_t R, int64_t V, int64_t T,
                           int64_t C, int64_t H, int64_t L, real eps, int threads);

/* adamw.c: one AdamW step on n weights: w, m and v are updated in place from the gradient g.
 * correction1 = 1 - beta1^t and correction2 = 1 - beta2^t undo the bias of the moments at step t. */
void FN(adamw)(real *w, real *m, real *v, const real *g, int64_t n, double lr, double beta1,
               double beta2, double eps, double decay, double correction1, double correction2,
               int threads);
/* Sums of squares of x (n) in float64, one for each block of SQUARES_BLOCK elements. */
void FN(sum_squares)(double *partials, const real *x, int64_t n, int threads);

#endif
