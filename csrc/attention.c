/* Causal multi-head self-attention inside each sequence. No T x T matrix is ever in memory.
 *
 * For query t of one head:
 *
 *     score[j] = q_t . k_j / sqrt(D) for j <= t,    P = softmax(score),    y_t = sum_j P[j] v_j
 *
 * Vaswani et al., Attention Is All You Need (2017), section 3.2. Only the log-sum-exp is saved for
 * the backward, as in Dao et al., FlashAttention (2022), section 3.1.
 *
 * One thread computes one head of one sequence. It takes NR queries at a time (a query_block) and
 * keeps them side by side in the lanes of vectors. So a row of memory holds the scores of one key
 * with all of these queries. With VL = 4, NV = 2, MR = 4 and queries at positions 0 to 7:
 *
 *                 vector 0     vector 1
 *     query       0 1 2 3      4 5 6 7
 *     key 0       o o o o      o o o o        o      the query sees the key
 *         1       . o o o      o o o o        .      computed, then masked: P = 0
 *         2       . . o o      o o o o        blank  not computed
 *         3       . . . o      o o o o
 *         4                    o o o o        number of keys    vector 0   vector 1
 *         5                    . o o o          unmasked[w]         1          5
 *         6                    . . o o          keys[w]             4          8
 *         7                    . . . o
 *
 * So the maximum and the sum of the softmax are taken lane by lane. The rest are products on the
 * tile of tile.h (T means transposed), and dST = PT (dPT - delta), element by element:
 *
 *     score_tile()       MR keys x NR queries        scoreT = K QT      dPT = V dYT
 *     channel_tiles()    MR queries x D channels     y = P V            dQ = dS K
 *                        MR keys x D channels        dV = PT dY         dK = dST Q
 *
 * Q is multiplied by 1/sqrt(D), and so is the K in dQ.
 *
 * The forward keeps the scores of a block of queries with all keys that they see. The backward
 * computes them again, KEYS keys at a time. It sums dQ over the blocks of keys, and dK and dV over
 * the blocks of queries.
 *
 * Keys are taken in order from the start of the sequence. A masked key adds exactly zero, because
 * P = 0 is multiplied by its value, which must be finite. So the bits of row t of y depend on rows
 * 0..t of its own sequence alone. */
#include "kernels.h"
#include "tile.h"

/* Keys of a block in the backward: 64, rounded up to whole tiles. */
enum { KEYS = (64 + MR - 1) / MR * MR };

/* Elements of one thread's scratch. For a sequence of T rows, with Dp = D rounded up to whole
 * vectors, it holds
 *
 *     forward     vp (T,Dp)  qt (D,NR)  score (T,NR)
 *     backward    kp (T,Dp)  qt (D,NR)  dyt (D,NR)  qp (NR,Dp)  dyp (NR,Dp)  p, ds (KEYS,NR) */
int64_t FN(attention_scratch)(int64_t longest, int64_t D) {
    int64_t keys = longest > 2 * KEYS ? longest : 2 * KEYS;
    return longest * round_up(D, VL) + keys * NR + 4 * NR * round_up(D, VL);
}

/* --------------------------------------------------------------------------- a block of queries */

/* Up to NR queries of one head. Query i of the block is in lane i % VL of vector i / VL. Lanes
 * beyond the last query hold zeros as query and as dy; their results are not used. */
typedef struct {
    int count, nv;        /* number of queries, and of vectors that hold them */
    ivec position[NV];    /* of each query in the sequence: it sees keys 0..position */
    int64_t unmasked[NV]; /* number of leading keys that every query in this vector sees */
    int64_t keys[NV];     /* number of leading keys computed for this vector: at least those that
                             its last query sees. y = P V takes tiles of MR queries and reads the
                             keys that the last of them sees. So if a tile begins in this vector
                             and ends in the next, they are the keys of the tile's last query */
} query_block;

/* The block of queries at positions t, t + 1, ... of a sequence that has T rows. */
static query_block block_of_queries(int64_t t, int64_t T) {
    query_block b;
    b.count = (int)min(T - t, NR);
    b.nv = (b.count + VL - 1) / VL;
    for (int w = 0; w < b.nv; w++) {
        for (int l = 0; l < VL; l++)
            b.position[w][l] = (lane_int)(t + min(w * VL + l, b.count - 1));
        /* The last query in the tile of MR queries to which the vector's last lane belongs. */
        int last = ((w + 1) * VL - 1) / MR * MR + MR - 1;
        if (last >= b.count) last = b.count - 1;
        b.unmasked[w] = b.position[w][0] + 1;
        b.keys[w] = t + last + 1;
    }
    return b;
}

/* The first vector for which key j is computed. It is computed for all later vectors too. */
INLINE int first_vector(const query_block *b, int64_t j) {
    int w = 0;
    while (b->keys[w] <= j) w++;
    return w;
}

/* x in the lanes of vector w whose queries see key j, `hidden` in the others. */
INLINE vec causal(vec x, const query_block *b, int w, int64_t j, real hidden) {
    return choose(b->position[w] >= (lane_int)j, x, splat(hidden));
}

/* ------------------------------------------------------------------------- packing and products */

/* out (rows,Dp) = scale x (rows,D) is written, with zeros beyond D. Rows of x are x_row elements
 * apart. */
static void pack_rows(real *out, const real *x, int64_t x_row, int64_t rows, int64_t D,
                      real scale) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t d = 0; d < D; d += VL)
            store(out + t * round_up(D, VL) + d, load_part(x + t * x_row + d, D - d) * scale);
}

INLINE void clear_row(real *x, int64_t D) {
    for (int64_t d = 0; d < D; d += VL) store_part(x + d, (vec){0}, D - d);
}

/* out (mr,vectors VL) = A (mr,D) QT (D,vectors VL) is written. A holds mr keys or values, in rows
 * that are a_row apart. QT holds queries or dy, in `vectors` vectors. Rows of out and QT are NR
 * apart. */
INLINE void score_tile(real *out, const real *a, int64_t a_row, const real *qt, int64_t D, int mr,
                       int vectors) {
    tile(1, mr, vectors * VL, out, NR, 0, 0, 0, 0, D, a, a_row, 1, qt, NR);
}

/* out (mr,D) = [out +] A (mr,depth) B (depth,D), NR channels at a time. out is added to if `add`,
 * else written. A(i,p) = a[i * a_row + p * a_col]. B is packed by pack_rows(). */
static void channel_tiles(real *out, int64_t out_row, int add, const real *a, int64_t a_row,
                          int64_t a_col, const real *b, int64_t D, int mr, int64_t depth) {
    for (int64_t d = 0; d < D; d += NR)
        tile(1, mr, min(D - d, NR), out + d, out_row, add ? out + d : 0, out_row, 0, 0, depth,
             a, a_row, a_col, b + d, round_up(D, VL));
}

/* ---------------------------------------------------------------------------- one head, forward */

/* Vector w of score (keys,NR) becomes e = exp(score - max), zero where masked. *max, over the keys,
 * and *total, the sum of e over the keys, are written, with one number in each lane. */
INLINE void softmax_of_vector(real *score, const query_block *b, int w, vec *max, vec *total) {
    real *s = score + w * VL;
    vec top = splat(-INFINITY), sum = {0};
    for (int64_t j = 0; j < b->unmasked[w]; j++) top = vmax(load(s + j * NR), top);
    for (int64_t j = b->unmasked[w]; j < b->keys[w]; j++) {
        vec x = causal(load(s + j * NR), b, w, j, -INFINITY);
        store(s + j * NR, x);
        top = vmax(x, top);
    }
    for (int64_t j = 0; j < b->keys[w]; j++) {
        vec e = vexp(load(s + j * NR) - top);
        sum += e;
        store(s + j * NR, e);
    }
    *max = top, *total = sum;
}

/* One head of one sequence that has T rows. y (rows C apart) and lse (H apart) are written. y, lse
 * and q (rows 3C apart) point to the first element of this head. The key and the value of a row
 * stand C and 2C elements after its query. */
static void head_forward(real *y, real *lse, real *scratch, const real *q, int64_t T, int64_t H,
                         int64_t D) {
    int64_t C = H * D, row = 3 * C, Dp = round_up(D, VL);
    const real *k = q + C, *v = q + 2 * C;
    real *vp = scratch, *qt = vp + T * Dp, *score = qt + D * NR;
    pack_rows(vp, v, row, T, D, 1);
    for (int64_t t = 0; t < T; t += NR) {
        query_block b = block_of_queries(t, T);
        vec max[NV], total[NV];
        int64_t keys = b.keys[b.nv - 1];
        pack_transposed(qt, NR, q + t * row, row, b.count, D, (real)(1 / sqrt((double)D)));
        for (int64_t j = 0; j < keys; j += MR) {
            int mr = (int)min(keys - j, MR), f = first_vector(&b, j);
            score_tile(score + j * NR + f * VL, k + j * row, row, qt + f * VL, D, mr, b.nv - f);
        }
        for (int w = 0; w < b.nv; w++) softmax_of_vector(score, &b, w, &max[w], &total[w]);
        for (int i = 0; i < b.count; i += MR) { /* y = sum_j e[j] v_j */
            int mr = (int)min(b.count - i, MR);
            channel_tiles(y + (t + i) * C, C, 0, score + i, 1, NR, vp, D, mr, t + i + mr);
        }
        for (int i = 0; i < b.count; i++) { /* y /= total, lse = max + log(total) */
            real sum = total[i / VL][i % VL];
            real *yi = y + (t + i) * C;
            for (int64_t d = 0; d < D; d += VL)
                store_part(yi + d, load_part(yi + d, D - d) * (1 / sum), D - d);
            lse[(t + i) * H] = max[i / VL][i % VL] + log(sum);
        }
    }
}

/* --------------------------------------------------------------------------- one head, backward */

/* Write delta = sum_j P[j] dP[j] = y . dy and lse of each query into its lane of delta and
 * log_total. y (rows C apart), dyp (rows Dp apart, zeros beyond D) and lse (H apart) start at the
 * block's first query. */
INLINE void gather_delta_and_lse(vec *delta, vec *log_total, const query_block *b, const real *y,
                                 int64_t C, const real *dyp, const real *lse, int64_t H,
                                 int64_t D) {
    for (int i = 0; i < b->nv * VL; i++) {
        vec sum = {0};
        if (i < b->count)
            for (int64_t d = 0; d < D; d += VL)
                sum += load_part(y + i * C + d, D - d) * load(dyp + i * round_up(D, VL) + d);
        delta[i / VL][i % VL] = sum_lanes(sum);
        log_total[i / VL][i % VL] = i < b->count ? lse[i * H] : 0;
    }
}

/* For keys j..j+mr-1 and the queries of vectors f, f + 1, ...:
 *
 *     p    holds the scores and becomes P = exp(score - lse), zero where masked
 *     ds   holds dP and becomes dS = P (dP - delta)
 *
 * p and ds point to key j in vector f. */
INLINE void softmax_backward(real *p, real *ds, const query_block *b, int64_t j, int mr, int f,
                             const vec *log_total, const vec *delta) {
    for (int w = f; w < b->nv; w++)
        for (int r = 0; r < mr; r++) {
            int64_t at = r * NR + (w - f) * VL;
            vec e = vexp(load(p + at) - log_total[w]);
            if (j + r >= b->unmasked[w]) e = causal(e, b, w, j + r, 0);
            store(p + at, e);
            store(ds + at, e * (load(ds + at) - delta[w]));
        }
}

/* Arguments as in head_forward. dq and the gradients of key and value, in the same places as key
 * and value, are written. */
static void head_backward(real *dq, real *scratch, const real *dy, const real *q, const real *y,
                          const real *lse, int64_t T, int64_t H, int64_t D) {
    int64_t C = H * D, row = 3 * C, Dp = round_up(D, VL);
    const real *k = q + C, *v = q + 2 * C;
    real *dk = dq + C, *dv = dq + 2 * C;
    real scale = (real)(1 / sqrt((double)D));
    real *kp = scratch, *qt = kp + T * Dp, *dyt = qt + D * NR, *qp = dyt + D * NR;
    real *dyp = qp + NR * Dp, *p = dyp + NR * Dp, *ds = p + KEYS * NR;
    pack_rows(kp, k, row, T, D, scale);
    for (int64_t j = 0; j < T; j++) clear_row(dk + j * row, D), clear_row(dv + j * row, D);
    for (int64_t t = 0; t < T; t += NR) {
        query_block b = block_of_queries(t, T);
        vec log_total[NV], delta[NV];
        pack_transposed(qt, NR, q + t * row, row, b.count, D, scale);
        pack_transposed(dyt, NR, dy + t * C, C, b.count, D, 1);
        pack_rows(qp, q + t * row, row, b.count, D, scale);
        pack_rows(dyp, dy + t * C, C, b.count, D, 1);
        gather_delta_and_lse(delta, log_total, &b, y + t * C, C, dyp, lse + t * H, H, D);
        int64_t all_keys = b.keys[b.nv - 1];
        for (int64_t k0 = 0; k0 < all_keys; k0 += KEYS) {
            int64_t keys = min(all_keys - k0, KEYS);
            for (int64_t j = k0; j < k0 + keys; j += MR) {
                int mr = (int)min(k0 + keys - j, MR), f = first_vector(&b, j), vectors = b.nv - f;
                real *pj = p + (j - k0) * NR + f * VL, *dsj = ds + (j - k0) * NR + f * VL;
                score_tile(pj, k + j * row, row, qt + f * VL, D, mr, vectors); /* scores */
                score_tile(dsj, v + j * row, row, dyt + f * VL, D, mr, vectors); /* dP */
                softmax_backward(pj, dsj, &b, j, mr, f, log_total, delta);
                int queries = b.count - f * VL;
                real *dvj = dv + j * row, *dkj = dk + j * row;
                channel_tiles(dvj, row, 1, pj, NR, 1, dyp + f * VL * Dp, D, mr, queries);
                channel_tiles(dkj, row, 1, dsj, NR, 1, qp + f * VL * Dp, D, mr, queries);
            }
            for (int i = 0; i < b.count; i += MR) {
                int mr = (int)min(b.count - i, MR);
                int64_t seen = min(t + i + mr - k0, keys); /* of these keys */
                if (seen > 0)
                    channel_tiles(dq + (t + i) * row, row, k0 > 0, ds + i, 1, NR, kp + k0 * Dp, D,
                                  mr, seen);
            }
        }
    }
}

/* ------------------------------------------------------------------- all heads of all sequences */

/* The relative cost of one head of a sequence of T rows. */
INLINE int64_t work_of(int64_t T) { return T * (T + 64); }

/* A task is one head of one sequence: task i is head i % H of sequence i / H. A thread owns the
 * tasks first..last-1, with about as much work as any other thread. They are neighbours, so most
 * rows that the thread reads are in its cache from the matmul before. */
static void share_work(const int32_t *cu_seqlens, int64_t S, int64_t H, int threads, int thread,
                       int64_t *first, int64_t *last) {
    int64_t total = 0, before = 0;
    for (int64_t s = 0; s < S; s++) total += work_of(cu_seqlens[s + 1] - cu_seqlens[s]) * H;
    *first = *last = 0;
    for (int64_t i = 0; i < S * H; i++) {
        int64_t owner = before / (total / threads + 1);
        before += work_of(cu_seqlens[i / H + 1] - cu_seqlens[i / H]);
        if (owner < thread) *first = i + 1;
        if (owner <= thread) *last = i + 1;
    }
}

int64_t FN(attention_forward)(real *y, real *lse, real *scratch, const real *qkv,
                              const int32_t *cu_seqlens, int64_t N, int64_t S, int64_t H, int64_t D,
                              int64_t longest, int threads) {
    int64_t C = H * D, piece = FN(attention_scratch)(longest, D);
    int64_t bad = first_bad_offset(cu_seqlens, N, S, longest);
    if (bad >= 0) return bad;
    if (N * C < 4096) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share_work(cu_seqlens, S, H, threads, thread, &first, &last);
        for (int64_t i = first; i < last; i++) {
            int64_t start = cu_seqlens[i / H], T = cu_seqlens[i / H + 1] - start;
            int64_t h = i % H, at = start * C + h * D, qkv_at = start * 3 * C + h * D;
            head_forward(y + at, lse + start * H + h, scratch + thread * piece, qkv + qkv_at, T, H,
                         D);
        }
    }
    return -1;
}

int64_t FN(attention_backward)(real *dqkv, real *scratch, const real *dy, const real *qkv,
                               const real *y, const real *lse, const int32_t *cu_seqlens,
                               int64_t N, int64_t S, int64_t H, int64_t D, int64_t longest,
                               int threads) {
    int64_t C = H * D, piece = FN(attention_scratch)(longest, D);
    int64_t bad = first_bad_offset(cu_seqlens, N, S, longest);
    if (bad >= 0) return bad;
    if (N * C < 4096) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share_work(cu_seqlens, S, H, threads, thread, &first, &last);
        for (int64_t i = first; i < last; i++) {
            int64_t start = cu_seqlens[i / H], T = cu_seqlens[i / H + 1] - start;
            int64_t h = i % H, at = start * C + h * D, qkv_at = start * 3 * C + h * D;
            head_backward(dqkv + qkv_at, scratch + thread * piece, dy + at, qkv + qkv_at, y + at,
                          lse + start * H + h, T, H, D);
        }
    }
    return -1;
}
