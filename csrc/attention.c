/* Causal multi-head self-attention inside each sequence, without ever holding a T x T matrix.
 *
 * For query t of one head:  score[j] = q_t . k_j / sqrt(D) for j <= t,  P = softmax(score),
 * y_t = sum_j P[j] v_j.  Vaswani et al., Attention Is All You Need (2017), section 3.2; with only the
 * log-sum-exp saved for the backward as in Dao et al., FlashAttention (2022), section 3.1.
 *
 * One thread owns one (sequence, head). It takes NR queries at a time and keeps them side by side in
 * the lanes of vectors, so that a row of memory holds one key's scores with all of them. Then max and
 * sum over the keys go lane by lane, and all else is the tile of tile.h (T: transposed):
 *
 *     scoreT = K QT           MR keys x NR queries        y  = P V        MR queries x D channels
 *     dPT    = V dYT          MR keys x NR queries        dV = PT dY, dK = dST Q    MR keys x D
 *     dST    = PT (dPT - delta)                           dQ = dS K       MR queries x D
 *
 * with 1/sqrt(D) multiplied into Q, and into K for dQ. Queries go in blocks, keys from the
 * sequence's start, and a masked key adds exactly zero (0 times its value, which must be finite), so
 * the bits of row t depend on rows 0..t of its own sequence and on nothing else. */
#include "kernels.h"
#include "tile.h"

enum { KEYS = (64 + MR - 1) / MR * MR }; /* keys at a time in the backward */

#define WORK(T) ((T) * ((T) + 64)) /* of one head, in proportion */

/* Elements of one thread's scratch: rows of V or K; then the scores of all keys with NR queries
 * (forward) or P and dS of KEYS keys with them (backward); and Q, dY as they are and transposed. */
int64_t FN(attention_scratch)(int64_t longest, int64_t D) {
    int64_t keys = longest > 2 * KEYS ? longest : 2 * KEYS;
    return longest * round_up(D, VL) + keys * NR + 4 * NR * round_up(D, VL);
}

/* Up to NR queries of one head. Lane l of vector w is query w * VL + l. Lanes beyond the last query hold zeros
 * as query and as dy, and nobody reads what comes of them. */
typedef struct {
    int count, nv;    /* queries, and vectors that hold them */
    ivec sees[NV];    /* the last key that each sees, which is its own place */
    int64_t free[NV]; /* as many keys are seen by all queries of the vector */
    int64_t keys[NV]; /* as many are read: a tile of MR queries reads what its last one sees */
} queries;

/* Queries m, m + 1, ... of `total`; query m is the sequence's row rows[m] - start, or row m. */
static queries queries_from(int64_t m, int64_t total, const int32_t *rows, int64_t start) {
    queries b;
    b.count = total - m < NR ? (int)(total - m) : NR;
    b.nv = (b.count + VL - 1) / VL;
    for (int w = 0; w < b.nv; w++) {
        for (int l = 0; l < VL; l++) {
            int64_t i = w * VL + l < b.count ? m + w * VL + l : m + b.count - 1;
            b.sees[w][l] = (lane_int)(rows ? rows[i] - start : i);
        }
        int last = ((w + 1) * VL - 1) / MR * MR + MR - 1;
        if (last >= b.count) last = b.count - 1;
        b.free[w] = b.sees[w][0] + 1;
        b.keys[w] = (rows ? rows[m + last] - start : m + last) + 1;
    }
    return b;
}
INLINE int64_t seen_by(const queries *b, int i) { return b->sees[i / VL][i % VL]; }
/* The first vector that reads key j. */
INLINE int first_vector(const queries *b, int64_t j) {
    int w = 0;
    while (b->keys[w] <= j) w++;
    return w;
}
/* x where the queries of vector w see key j, else `hidden`. */
INLINE vec causal(vec x, const queries *b, int w, int64_t j, real hidden) {
    return choose(b->sees[w] >= (lane_int)j, x, splat(hidden));
}

/* out (rows, D rounded up to vectors) = scale x, zeros beyond D. */
static void pack_rows(real *out, const real *x, int64_t x_row, int64_t rows, int64_t D, real scale) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t d = 0; d < D; d += VL)
            store(out + t * round_up(D, VL) + d, load_part(x + t * x_row + d, D - d) * scale);
}
INLINE void clear_row(real *x, int64_t D) {
    for (int64_t d = 0; d < D; d += VL) store_part(x + d, (vec){0}, D - d);
}
/* out (mr, D) = [out +] A (mr, depth) B (depth, D), over panels of NR channels. */
static void product(real *out, int64_t out_row, int add, const real *a, int64_t a_row, int64_t a_col,
                    const real *b, int64_t D, int mr, int64_t depth) {
    for (int64_t d = 0; d < D; d += NR)
        tile(mr, D - d < NR ? D - d : NR, out + d, out_row, add ? out + d : 0, out_row, 0, 0, depth, a,
             a_row, a_col, b + d, round_up(D, VL));
}

/* y (M rows of C), lse (M rows of H), q (M rows), k and v (T rows). */
static void forward_one(real *y, real *lse, real *scratch, const real *q, int64_t q_row, const real *k,
                        const real *v, int64_t kv_row, const int32_t *rows, int64_t start, int64_t M,
                        int64_t T, int64_t H, int64_t D) {
    int64_t C = H * D, Dp = round_up(D, VL);
    real *vp = scratch, *qt = vp + T * Dp, *score = qt + D * NR;
    pack_rows(vp, v, kv_row, T, D, 1);
    for (int64_t m = 0; m < M; m += NR) {
        queries b = queries_from(m, M, rows, start);
        vec max[NV], total[NV];
        int64_t keys = b.keys[b.nv - 1];
        pack_transposed(qt, NR, q + m * q_row, q_row, b.count, D, (real)(1 / sqrt((double)D)));
        for (int64_t j = 0; j < keys; j += MR) {
            int mr = keys - j < MR ? (int)(keys - j) : MR, f = first_vector(&b, j);
            tile(mr, (b.nv - f) * VL, score + j * NR + f * VL, NR, 0, 0, 0, 0, D, k + j * kv_row, kv_row, 1,
                 qt + f * VL, NR);
        }
        for (int w = 0; w < b.nv; w++) {
            real *s = score + w * VL;
            vec top = splat(-INFINITY), sum = {0};
            for (int64_t j = 0; j < b.free[w]; j++) top = vmax(load(s + j * NR), top);
            for (int64_t j = b.free[w]; j < b.keys[w]; j++) {
                vec x = causal(load(s + j * NR), &b, w, j, -INFINITY);
                store(s + j * NR, x);
                top = vmax(x, top);
            }
            for (int64_t j = 0; j < b.keys[w]; j++) {
                vec e = vexp(load(s + j * NR) - top);
                sum += e;
                store(s + j * NR, e);
            }
            max[w] = top, total[w] = sum;
        }
        for (int i = 0; i < b.count; i += MR) {
            int mr = b.count - i < MR ? b.count - i : MR;
            product(y + (m + i) * C, C, 0, score + i, 1, NR, vp, D, mr, seen_by(&b, i + mr - 1) + 1);
        }
        for (int i = 0; i < b.count; i++) {
            real sum = total[i / VL][i % VL];
            real *row = y + (m + i) * C;
            for (int64_t d = 0; d < D; d += VL) store_part(row + d, load_part(row + d, D - d) * (1 / sum), D - d);
            lse[(m + i) * H] = max[i / VL][i % VL] + log(sum);
        }
    }
}

static void backward_one(real *dq, int64_t q_row, real *dk, real *dv, int64_t kv_row, real *scratch,
                         const real *dy, const real *q, const real *k, const real *v, const real *y,
                         const real *lse, const int32_t *rows, int64_t start, int64_t M, int64_t T,
                         int64_t H, int64_t D) {
    int64_t C = H * D, Dp = round_up(D, VL);
    real scale = (real)(1 / sqrt((double)D));
    real *kp = scratch, *qt = kp + T * Dp, *dyt = qt + D * NR, *qp = dyt + D * NR, *dyp = qp + NR * Dp;
    real *p = dyp + NR * Dp, *ds = p + KEYS * NR;
    pack_rows(kp, k, kv_row, T, D, scale);
    for (int64_t t = 0; t < T; t++) clear_row(dk + t * kv_row, D), clear_row(dv + t * kv_row, D);
    for (int64_t m = 0; m < M; m += NR) {
        queries b = queries_from(m, M, rows, start);
        vec log_total[NV], delta[NV]; /* delta = sum_j P[j] dP[j] = y . dy, the softmax's own share */
        pack_transposed(qt, NR, q + m * q_row, q_row, b.count, D, scale);
        pack_transposed(dyt, NR, dy + m * C, C, b.count, D, 1);
        pack_rows(qp, q + m * q_row, q_row, b.count, D, scale);
        pack_rows(dyp, dy + m * C, C, b.count, D, 1);
        for (int i = 0; i < b.nv * VL; i++) {
            vec sum = {0};
            if (i < b.count)
                for (int64_t d = 0; d < D; d += VL)
                    sum += load_part(y + (m + i) * C + d, D - d) * load(dyp + i * Dp + d);
            delta[i / VL][i % VL] = sum_lanes(sum);
            log_total[i / VL][i % VL] = i < b.count ? lse[(m + i) * H] : 0;
        }
        int64_t seen_keys = b.keys[b.nv - 1];
        for (int64_t k0 = 0; k0 < seen_keys; k0 += KEYS) {
            int64_t keys = seen_keys - k0 < KEYS ? seen_keys - k0 : KEYS;
            for (int64_t j = k0; j < k0 + keys; j += MR) {
                int mr = k0 + keys - j < MR ? (int)(k0 + keys - j) : MR, f = first_vector(&b, j);
                real *pj = p + (j - k0) * NR + f * VL, *dsj = ds + (j - k0) * NR + f * VL;
                tile(mr, (b.nv - f) * VL, pj, NR, 0, 0, 0, 0, D, k + j * kv_row, kv_row, 1, qt + f * VL, NR);
                tile(mr, (b.nv - f) * VL, dsj, NR, 0, 0, 0, 0, D, v + j * kv_row, kv_row, 1, dyt + f * VL, NR);
                for (int w = f; w < b.nv; w++)
                    for (int r = 0; r < mr; r++) {
                        int64_t at = r * NR + (w - f) * VL;
                        vec e = vexp(load(pj + at) - log_total[w]);
                        if (j + r >= b.free[w]) e = causal(e, &b, w, j + r, 0);
                        store(pj + at, e);
                        store(dsj + at, e * (load(dsj + at) - delta[w]));
                    }
                product(dv + j * kv_row, kv_row, 1, pj, NR, 1, dyp + f * VL * Dp, D, mr, b.count - f * VL);
                product(dk + j * kv_row, kv_row, 1, dsj, NR, 1, qp + f * VL * Dp, D, mr, b.count - f * VL);
            }
            for (int n = 0; n < b.count; n += MR) {
                int mr = b.count - n < MR ? b.count - n : MR;
                int64_t seen = seen_by(&b, n + mr - 1) + 1 - k0;
                if (seen > 0)
                    product(dq + (m + n) * q_row, q_row, k0 > 0, ds + n, 1, NR, kp + k0 * Dp, D, mr, seen < keys ? seen : keys);
            }
        }
    }
}

/* The first bad offset, or S + 1 + the first row of `rows` that does not rise or does not exist. */
static int64_t first_bad(const int32_t *cu_seqlens, const int32_t *rows, int64_t N, int64_t S, int64_t M,
                         int64_t longest) {
    if (cu_seqlens[0] != 0) return 0;
    for (int64_t s = 0; s < S; s++)
        if (cu_seqlens[s + 1] < cu_seqlens[s] || cu_seqlens[s + 1] - cu_seqlens[s] > longest) return s + 1;
    if (cu_seqlens[S] != N) return S;
    for (int64_t m = 0; rows && m < M; m++)
        if (rows[m] < (m ? rows[m - 1] + 1 : 0) || rows[m] >= N) return S + 1 + m;
    return -1;
}
/* How many of rows (M, rising) stand before `row`; without rows all do. */
static int64_t rows_before(const int32_t *rows, int64_t M, int64_t row) {
    if (!rows) return row;
    int64_t low = 0, high = M;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (rows[middle] < row) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The pairs (sequence, head) first..last-1 that a thread owns, numbered by sequence and then by head: neighbours,
 * so that a thread mostly meets rows which its own cache has from the product before, and about equal work. */
static void share_work(const int32_t *cu_seqlens, int64_t S, int64_t H, int threads, int thread, int64_t *first,
                       int64_t *last) {
    int64_t total = 0, before = 0;
    for (int64_t s = 0; s < S; s++) total += WORK(cu_seqlens[s + 1] - cu_seqlens[s]) * H;
    *first = *last = 0;
    for (int64_t i = 0; i < S * H; i++) {
        int64_t T = cu_seqlens[i / H + 1] - cu_seqlens[i / H], owner = before / (total / threads + 1);
        before += WORK(T);
        if (owner < thread) *first = i + 1;
        if (owner <= thread) *last = i + 1;
    }
}

int64_t FN(attention_forward)(real *y, real *lse, real *scratch, const real *q, const real *kv,
                              const int32_t *cu_seqlens, const int32_t *rows, int64_t N, int64_t S,
                              int64_t M, int64_t H, int64_t D, int64_t q_row, int64_t kv_row,
                              int64_t longest, int threads) {
    int64_t bad = first_bad(cu_seqlens, rows, N, S, M, longest), C = H * D, piece = FN(attention_scratch)(longest, D);
    if (bad >= 0) return bad;
    if (N * C < 4096) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share_work(cu_seqlens, S, H, threads, thread, &first, &last);
        for (int64_t i = first; i < last; i++) {
            int64_t start = cu_seqlens[i / H], T = cu_seqlens[i / H + 1] - start, head = i % H * D;
            int64_t m = rows_before(rows, M, start), count = rows_before(rows, M, start + T) - m;
            const real *k = kv + start * kv_row + head;
            forward_one(y + m * C + head, lse + m * H + i % H, scratch + thread * piece, q + m * q_row + head, q_row,
                        k, k + C, kv_row, rows ? rows + m : 0, start, count, T, H, D);
        }
    }
    return -1;
}

int64_t FN(attention_backward)(real *dq, real *dkv, real *scratch, const real *dy, const real *q,
                               const real *kv, const real *y, const real *lse,
                               const int32_t *cu_seqlens, const int32_t *rows, int64_t N, int64_t S,
                               int64_t M, int64_t H, int64_t D, int64_t q_row, int64_t kv_row,
                               int64_t longest, int threads) {
    int64_t bad = first_bad(cu_seqlens, rows, N, S, M, longest), C = H * D, piece = FN(attention_scratch)(longest, D);
    if (bad >= 0) return bad;
    if (N * C < 4096) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share_work(cu_seqlens, S, H, threads, thread, &first, &last);
        for (int64_t i = first; i < last; i++) {
            int64_t start = cu_seqlens[i / H], T = cu_seqlens[i / H + 1] - start, head = i % H * D;
            int64_t m = rows_before(rows, M, start), count = rows_before(rows, M, start + T) - m;
            const real *k = kv + start * kv_row + head;
            real *dk = dkv + start * kv_row + head;
            backward_one(dq + m * q_row + head, q_row, dk, dk + C, kv_row, scratch + thread * piece, dy + m * C + head,
                         q + m * q_row + head, k, k + C, y + m * C + head, lse + m * H + i % H, rows ? rows + m : 0,
                         start, count, T, H, D);
        }
    }
    return -1;
}
