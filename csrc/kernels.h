/* The prototype of every kernel, in one place. The compiler includes this file. pysft/nn/_build.py
 * reads its text once for each precision (real.h), to declare the functions to cffi.
 *
 * Gradients: parameter gradients are ADDED to what the array holds, activation gradients are
 * WRITTEN. The exception is the residual stream, which several layers read: layernorm_backward ADDS
 * its dx, because the gradient of the other readers is already there.
 *
 * Determinism: one thread computes an output element from start to end, in an order that does not
 * depend on the number of threads. So results have the same bits for any `threads`, and the forward
 * of a row has the same bits in any batch. Small calls stay on one thread, because starting the
 * others would cost more time than they save.
 *
 * Memory: the caller owns every array. Kernels do not allocate, print, exit or keep state. A kernel
 * that follows indices (tokens, labels, offsets) checks all of them first. It returns -1 if all are
 * good. Otherwise it writes nothing, and returns the position of the first bad one.
 *
 * Letters: N token rows, C channels in, K channels out, H heads, D = C/H channels of a head, V
 * symbols of the vocabulary, T positions of the context, S sequences. Arrays are row-major and
 * contiguous. cu_seqlens (S+1) holds the rising offsets of the sequences among the N rows:
 * cu_seqlens[0] = 0, cu_seqlens[S] = N.
 *
 * Order of arguments: arrays that are written, arrays that are read, sizes, scalars, threads. A
 * backward lists its gradients in the order of the forward's inputs, then the upstream gradient,
 * then the arrays that the forward read and saved. NULL for a gradient means "not wanted"; NULL for
 * a bias or a residual means "absent". */
#ifndef PYSFT_KERNELS_H
#define PYSFT_KERNELS_H

#include "real.h"

/* matmul.c, with w (K,C):
 *
 *     y (N,K) = x (N,C) wT + b (K) [+ residual (N,K)]
 *
 *     dx (N,C) = dy w                       written
 *     dw (K,C) += dyT x                     added
 *     db (K)   += column sums of dy         added
 *     scratch      working memory, matmul_scratch(N, terms of a sum) elements: C terms forward, and
 *                  K backward. NULL if that is 0; it is 0 unless the products are in bf16 */
int64_t FN(matmul_scratch)(int64_t N, int64_t C);
void FN(matmul_forward)(real *y, real *scratch, const real *x, const real *w, const real *b,
                        const real *residual, int64_t N, int64_t C, int64_t K, int threads);
void FN(matmul_backward)(real *dx, real *dw, real *db, real *scratch, const real *dy, const real *x,
                         const real *w, int64_t N, int64_t C, int64_t K, int threads);

/* attention.c: causal self-attention of H heads inside each sequence, with qkv (N,3C) = query, key
 * and value of each row:
 *
 *     y (N,C)      written
 *     lse (N,H)    written: log sum exp of the scaled scores of a query. With it the backward
 *                  computes the probabilities again
 *     dqkv (N,3C)  written
 *     scratch      working memory, threads * attention_scratch(longest, D) elements
 *
 * No sequence may have more than `longest` rows. Both return the first bad offset of cu_seqlens, or
 * -1. */
int64_t FN(attention_scratch)(int64_t longest, int64_t D);
int64_t FN(attention_forward)(real *y, real *lse, real *scratch, const real *qkv,
                              const int32_t *cu_seqlens, int64_t N, int64_t S, int64_t H, int64_t D,
                              int64_t longest, int threads);
int64_t FN(attention_backward)(real *dqkv, real *scratch, const real *dy, const real *qkv,
                               const real *y, const real *lse, const int32_t *cu_seqlens,
                               int64_t N, int64_t S, int64_t H, int64_t D, int64_t longest,
                               int threads);

/* layernorm.c, over each row:
 *
 *     y (N,C) = (x - mean) rstd w + b       and mean (N), rstd (N), which the backward reads
 *
 *     dx (N,C)                              ADDED (the residual stream)
 *     dw (C), db (C)                        added */
void FN(layernorm_forward)(real *y, real *mean, real *rstd, const real *x, const real *w,
                           const real *b, int64_t N, int64_t C, real eps, int threads);
void FN(layernorm_backward)(real *dx, real *dw, real *db, const real *dy, const real *x,
                            const real *w, const real *mean, const real *rstd, int64_t N, int64_t C,
                            int threads);

/* gelu.c, for each of n elements:
 *
 *     y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
 *     dydx = the derivative                 written, unless dydx is NULL
 *
 *     dx = dy dydx                          written. dydx is that of the forward; if it is NULL,
 *                                           the derivative is computed from x
 *
 * y or dydx may be x itself, and dx may be dy itself. */
void FN(gelu_forward)(real *y, real *dydx, const real *x, int64_t n, int threads);
void FN(gelu_backward)(real *dx, const real *dy, const real *x, const real *dydx, int64_t n,
                       int threads);

/* embedding.c, with wte (V,C) and wpe (T,C):
 *
 *     y (N,C) = wte[token] + wpe[position in the sequence]
 *
 *     dwte (V,C), dwpe (T,C)                added
 *
 * No sequence may have more than T rows. Both return the first row whose token is not in 0..V-1, or
 * N + the first bad offset of cu_seqlens, or -1. */
int64_t FN(embedding_forward)(real *y, const int32_t *tokens, const int32_t *cu_seqlens,
                              const real *wte, const real *wpe, int64_t N, int64_t S, int64_t C,
                              int64_t V, int64_t T, int threads);
int64_t FN(embedding_backward)(real *dwte, real *dwpe, const real *dy, const int32_t *tokens,
                               const int32_t *cu_seqlens, int64_t N, int64_t S, int64_t C,
                               int64_t V, int64_t T, int threads);

/* cross_entropy.c, for each row of logits (N,V):
 *
 *     lse (N) = log sum exp logits
 *     nll (N) = lse - logits[label]
 *
 *     dlogits (N,V) = dnll (softmax - onehot)    written; may be logits itself
 *
 * A row whose label is -100 is not graded: its lse, nll and dlogits are 0. Both return the first
 * row whose label is neither -100 nor in 0..V-1, or -1. */
int64_t FN(cross_entropy_forward)(real *nll, real *lse, const real *logits, const int32_t *labels,
                                  int64_t N, int64_t V, int threads);
int64_t FN(cross_entropy_backward)(real *dlogits, const real *dnll, const real *logits,
                                   const real *lse, const int32_t *labels, int64_t N, int64_t V,
                                   int threads);

/* decode.c: read one more token of each of S sequences, in a model of L blocks.
 *
 *     logits (S,V)              written: row i for the token that follows tokens[i]
 *     cache (R,decode_cache)    keys and values of R sequences; those of the new tokens are added
 *     work (S,decode_work)      working memory
 *     weights (decode_weights)  wte, wpe; for each block ln1.w, ln1.b, qkv.w packed, qkv.b,
 *                               attproj.w packed, attproj.b, ln2.w, ln2.b, fc.w packed, fc.b,
 *                               fcproj.w packed, fcproj.b; then lnf.w, lnf.b, head packed
 *     tokens, positions (S)     sequence i reads tokens[i] at position positions[i]
 *     slots (S)                 the row of cache that holds sequence i; slots rise
 *
 * The functions decode_weights, decode_cache and decode_work return numbers of elements: of all
 * weights, of a row of cache, of a row of work. decode_pack writes decode_packed(C, K) elements
 * from w (K,C).
 *
 * decode_keep writes keys and values to a row of cache: those of `rows` rows of a forward's qkv, in
 * block l and at the positions first, first + 1, ...
 *
 * decode_forward checks the sequences in order. For the first bad one, i, it returns
 *
 *     i             if tokens[i] is not in 0..V-1
 *     S + i         if positions[i] is not in 0..T-1
 *     2 S + i       if slots[i] is not in 0..R-1, or not above slots[i - 1]
 *
 * and -1 if all are good. */
int64_t FN(decode_packed)(int64_t C, int64_t K);
void FN(decode_pack)(real *packed, const real *w, int64_t C, int64_t K);
int64_t FN(decode_weights)(int64_t V, int64_t T, int64_t C, int64_t L);
int64_t FN(decode_cache)(int64_t T, int64_t C, int64_t L);
int64_t FN(decode_work)(int64_t T, int64_t C);
void FN(decode_keep)(real *cache, const real *qkv, int64_t rows, int64_t first, int64_t l,
                     int64_t T, int64_t C);
int64_t FN(decode_forward)(real *logits, real *cache, real *work, const real *weights,
                           const int32_t *tokens, const int32_t *positions, const int32_t *slots,
                           int64_t S, int64_t R, int64_t V, int64_t T, int64_t C, int64_t H,
                           int64_t L, real eps, int threads);

/* sample.c: choose the next token of each of S sequences from its logits (S,V), by the rules that
 * `sample` in nn/reference.py explains.
 *
 *     chosen (S)              written; -1 if logits of the sequence are not finite
 *     work (S,V), heap (S,V)  working memory
 *     rules (3S)              temperature, top_p and repetition of each sequence
 *     top_k (S)               0 keeps all tokens
 *     keys (4S)               128 bits that key the random numbers of each sequence
 *     counters (S)            the number of this draw in its sequence
 *     again (A)               ids of tokens; those of sequence i begin at offsets[i] of offsets
 *                             (S+1). NULL if there are none
 *
 * It returns the first index of `again` that holds no token, or A + the first bad offset, or -1. */
int64_t FN(sample)(int32_t *chosen, real *work, int32_t *heap, const real *logits,
                   const real *rules, const int32_t *top_k, const int32_t *keys,
                   const int32_t *counters, const int32_t *again, const int32_t *offsets, int64_t S,
                   int64_t V, int64_t A, int threads);

/* adamw.c: step t of AdamW on n weights. w, m and v are updated in place from the gradient g.
 * correction1 = 1 - beta1^t and correction2 = 1 - beta2^t undo the bias of the moments m and v. */
void FN(adamw)(real *w, real *m, real *v, const real *g, int64_t n, double lr, double beta1,
               double beta2, double eps, double decay, double correction1, double correction2,
               int threads);
/* partials (n / SQUARES_BLOCK, rounded up) is written, in float64: the sum of the squares of each
 * SQUARES_BLOCK elements of x (n). */
void FN(sum_squares)(double *partials, const real *x, int64_t n, int threads);

#endif
