/* Causal multi-head self-attention inside each sequence, without ever holding a T x T matrix.
 *
 * For query t of one head:  score[j] = q_t . k_j / sqrt(D) for j <= t,  P = softmax(score),
 * y_t = sum_j P[j] v_j.  Vaswani et al., Attention Is All You Need (2017), section 3.2; in blocks
 * with a running maximum as in Milakov and Gimelshein, Online normalizer calculation for softmax
 * (2018), and with only the log-sum-exp saved for the backward as in Dao et al., FlashAttention
 * (2022), section 3.1.
 *
 * One thread owns one (sequence, head). It first copies the head's vectors out of the interleaved
 * rows into packed pieces, rounded up with zeros to whole blocks of NR positions and whole vectors
 * of channels; then everything is the tile of tile.h:
 *
 *     scores = Q KT          MR queries x NR keys          KT: (D, NR) for each block of keys
 *     y      = P V           MR queries x D channels
 *     dP     = dY VT,  dS = P (dP - delta) scale,  dQ = dS K,  dK = dST Q,  dV = PT dY
 *
 * Keys come in blocks counted from the sequence's start, and a masked key adds exactly zero (0
 * times its value, which must be finite), so the bits of row t depend on rows 0..t of its own
 * sequence and on nothing else. */
#include "kernels.h"
#include "tile.h"

INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
/* A tile can be NV vectors wide: more channels are walked in panels. */
INLINE int64_t padded(int64_t D) { return round_up(D, VL); }

/* One thread's scratch: KT, VT, K, V or Q, dY, and dQ, dK, dV of one (sequence, head). */
int64_t FN(attention_scratch)(int64_t longest, int64_t D) {
    return 8 * round_up(longest, NR) * padded(D);
}

/* out (T up to whole blocks, padded(D)) = rows of x, zeros around them. */
static void pack_rows(real *out, const real *x, int64_t stride, int64_t T, int64_t D) {
    int64_t Dp = padded(D), Tp = round_up(T, NR);
    for (int64_t t = 0; t < T; t++) {
        memcpy(out + t * Dp, x + t * stride, (size_t)D * sizeof(real));
        for (int64_t d = D; d < Dp; d++) out[t * Dp + d] = 0;
    }
    memset(out + T * Dp, 0, (size_t)((Tp - T) * Dp) * sizeof(real));
}
/* out (blocks, D, NR) = the rows' transposes, one for each block of NR positions. */
static void pack_columns(real *out, const real *x, int64_t stride, int64_t T, int64_t D) {
    for (int64_t t0 = 0; t0 < T; t0 += NR)
        for (int64_t i = 0; i < NR; i++)
            for (int64_t d = 0; d < D; d++)
                out[t0 * D + d * NR + i] = t0 + i < T ? x[(t0 + i) * stride + d] : 0;
}

/* out (mr, Dp) += A (mr, depth) B (depth, Dp), over panels of NR channels. */
INLINE void add_product(real *out, const real *a, int64_t a_row, int64_t a_col, const real *b,
                        int64_t Dp, int mr, int64_t depth) {
    for (int64_t d = 0; d < Dp; d += NR) {
        int nv = (int)((Dp - d < NR ? Dp - d : NR) / VL);
        vec acc[MR][NV];
        for (int i = 0; i < mr; i++)
            for (int j = 0; j < nv; j++) acc[i][j] = load(out + i * Dp + d + j * VL);
        tile(mr, nv, acc, depth, a, a_row, a_col, b + d, Dp);
        for (int i = 0; i < mr; i++)
            for (int j = 0; j < nv; j++) store(out + i * Dp + d + j * VL, acc[i][j]);
    }
}

/* Which keys of block k0 may query q see: all lanes up to q, -inf beyond. */
INLINE vec causal(vec score, int64_t first_key, int64_t q) {
    if (first_key + VL - 1 <= q) return score;
    for (int i = 0; i < VL; i++)
        if (first_key + i > q) score[i] = -INFINITY;
    return score;
}

static void forward_one(real *y, real *lse, real *scratch, const real *qkv, int64_t T, int64_t H,
                        int64_t D, int64_t head) {
    int64_t C = H * D, Dp = padded(D), Tp = round_up(T, NR);
    const real *q = qkv + head * D;
    real scale = (real)(1 / sqrt((double)D));
    real *kt = scratch, *v = kt + Tp * Dp, *out = v + Tp * Dp;
    pack_columns(kt, q + C, 3 * C, T, D);
    pack_rows(v, q + 2 * C, 3 * C, T, D);
    memset(out, 0, (size_t)(round_up(T, NR) * Dp) * sizeof(real));
    for (int64_t t0 = 0; t0 < T; t0 += MR) {
        int mr = T - t0 < MR ? (int)(T - t0) : MR;
        int64_t last = t0 + mr - 1; /* the tile's last query, and so its last key */
        real max[MR], total[MR], p[MR * NR] __attribute__((aligned(64)));
        for (int i = 0; i < mr; i++) max[i] = -INFINITY, total[i] = 0;
        for (int64_t k0 = 0; k0 <= last; k0 += NR) {
            int64_t keys = last + 1 - k0 < NR ? last + 1 - k0 : NR;
            int nv = (int)((keys + VL - 1) / VL);
            vec score[MR][NV];
            memset(score, 0, sizeof score);
            tile(mr, nv, score, D, q + t0 * 3 * C, 3 * C, 1, kt + k0 * D, NR);
            for (int i = 0; i < mr; i++) {
                vec top = splat(-INFINITY), sum = {0};
                for (int j = 0; j < nv; j++) {
                    score[i][j] = causal(score[i][j] * scale, k0 + j * VL, t0 + i);
                    top = vmax(score[i][j], top);
                }
                real larger = max_lanes(top);
                if (!(larger > max[i])) larger = max[i];
                /* what was summed so far was relative to the old maximum */
                vec shrink = vexp(splat(max[i] - larger));
                for (int j = 0; j < nv; j++) {
                    vec e = vexp(score[i][j] - larger);
                    sum += e;
                    store(p + i * NR + j * VL, e);
                }
                max[i] = larger;
                total[i] = total[i] * shrink[0] + sum_lanes(sum);
                if (k0 > 0)
                    for (int64_t d = 0; d < Dp; d += VL)
                        store(out + (t0 + i) * Dp + d, load(out + (t0 + i) * Dp + d) * shrink);
            }
            add_product(out + t0 * Dp, p, NR, 1, v + k0 * Dp, Dp, mr, keys);
        }
        for (int i = 0; i < mr; i++) {
            real *row = y + (t0 + i) * C + head * D;
            for (int64_t d = 0; d < D; d++) row[d] = out[(t0 + i) * Dp + d] / total[i];
            lse[(t0 + i) * H + head] = max[i] + (real)log(total[i]);
        }
    }
}

static void backward_one(real *dqkv, real *scratch, const real *dy, const real *qkv, const real *y,
                         const real *lse, int64_t T, int64_t H, int64_t D, int64_t head) {
    int64_t C = H * D, Dp = padded(D), Tp = round_up(T, NR), piece = Tp * Dp;
    const real *q = qkv + head * D, *dout = dy + head * D;
    real scale = (real)(1 / sqrt((double)D));
    real *kt = scratch, *vt = kt + piece, *kp = vt + piece, *qp = kp + piece, *dyp = qp + piece;
    real *dq = dyp + piece, *dk = dq + piece, *dv = dk + piece;
    pack_columns(kt, q + C, 3 * C, T, D);
    pack_columns(vt, q + 2 * C, 3 * C, T, D);
    pack_rows(kp, q + C, 3 * C, T, D);
    pack_rows(qp, q, 3 * C, T, D);
    pack_rows(dyp, dout, C, T, D);
    memset(dq, 0, (size_t)(3 * piece) * sizeof(real));
    for (int64_t k0 = 0; k0 < T; k0 += NR) {
        for (int64_t q0 = k0; q0 < T; q0 += NR) { /* blocks of NR queries, all at or after the keys */
            int64_t queries = T - q0 < NR ? T - q0 : NR, keys = queries;
            if (q0 > k0) keys = NR;
            real p[NR * NR] __attribute__((aligned(64))), ds[NR * NR] __attribute__((aligned(64)));
            for (int64_t t0 = 0; t0 < queries; t0 += MR) {
                int mr = queries - t0 < MR ? (int)(queries - t0) : MR;
                /* Keys beyond the tile's last query are zeros in p and ds. */
                int64_t seen = q0 > k0 ? keys : t0 + mr;
                int nv = (int)((seen + VL - 1) / VL);
                vec score[MR][NV], dp[MR][NV];
                memset(score, 0, sizeof score);
                memset(dp, 0, sizeof dp);
                tile(mr, nv, score, D, q + (q0 + t0) * 3 * C, 3 * C, 1, kt + k0 * D, NR);
                tile(mr, nv, dp, D, dout + (q0 + t0) * C, C, 1, vt + k0 * D, NR);
                for (int i = 0; i < mr; i++) {
                    int64_t t = q0 + t0 + i;
                    /* delta = sum_j P[j] dP[j] = y . dy, the softmax's own share of the gradient */
                    real delta = 0, log_total = lse[t * H + head];
                    for (int64_t d = 0; d < D; d++) delta += y[t * C + head * D + d] * dout[t * C + d];
                    for (int j = 0; j < nv; j++) {
                        vec e = vexp(causal(score[i][j] * scale, k0 + j * VL, t) - log_total);
                        store(p + (t0 + i) * NR + j * VL, e);
                        store(ds + (t0 + i) * NR + j * VL, e * (dp[i][j] - delta) * scale);
                    }
                    for (int64_t j = nv * VL; j < NR; j++)
                        p[(t0 + i) * NR + j] = ds[(t0 + i) * NR + j] = 0;
                }
                add_product(dq + (q0 + t0) * Dp, ds + t0 * NR, NR, 1, kp + k0 * Dp, Dp, mr, seen);
            }
            for (int64_t j = 0; j < keys; j += MR) { /* key j is seen from query j of its own block on */
                int mr = keys - j < MR ? (int)(keys - j) : MR;
                int64_t from = q0 > k0 ? 0 : j;
                add_product(dv + (k0 + j) * Dp, p + from * NR + j, 1, NR, dyp + (q0 + from) * Dp, Dp,
                            mr, queries - from);
                add_product(dk + (k0 + j) * Dp, ds + from * NR + j, 1, NR, qp + (q0 + from) * Dp, Dp,
                            mr, queries - from);
            }
        }
    }
    for (int64_t t = 0; t < T; t++) {
        real *row = dqkv + t * 3 * C + head * D;
        memcpy(row, dq + t * Dp, (size_t)D * sizeof(real));
        memcpy(row + C, dk + t * Dp, (size_t)D * sizeof(real));
        memcpy(row + 2 * C, dv + t * Dp, (size_t)D * sizeof(real));
    }
}

static int64_t first_bad(const int32_t *cu_seqlens, int64_t N, int64_t S) {
    if (cu_seqlens[0] != 0) return 0;
    for (int64_t s = 0; s < S; s++)
        if (cu_seqlens[s + 1] < cu_seqlens[s] || cu_seqlens[s + 1] > N) return s + 1;
    return cu_seqlens[S] == N ? -1 : S;
}

int64_t FN(attention_forward)(real *y, real *lse, real *scratch, const real *qkv,
                              const int32_t *cu_seqlens, int64_t N, int64_t S, int64_t H, int64_t D,
                              int64_t scratch_stride, int threads) {
    int64_t bad = first_bad(cu_seqlens, N, S), C = H * D;
    if (bad >= 0) return bad;
    if (N * C < 4096) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++)
        for (int64_t i = thread; i < S * H; i += threads) { /* (sequence, head) dealt round */
            int64_t start = cu_seqlens[i / H], T = cu_seqlens[i / H + 1] - start;
            forward_one(y + start * C, lse + start * H, scratch + thread * scratch_stride,
                        qkv + start * 3 * C, T, H, D, i % H);
        }
    return -1;
}

int64_t FN(attention_backward)(real *dqkv, real *scratch, const real *dy, const real *qkv,
                               const real *y, const real *lse, const int32_t *cu_seqlens, int64_t N,
                               int64_t S, int64_t H, int64_t D, int64_t scratch_stride, int threads) {
    int64_t bad = first_bad(cu_seqlens, N, S), C = H * D;
    if (bad >= 0) return bad;
    if (N * C < 4096) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++)
        for (int64_t i = thread; i < S * H; i += threads) {
            int64_t start = cu_seqlens[i / H], T = cu_seqlens[i / H + 1] - start;
            backward_one(dqkv + start * 3 * C, scratch + thread * scratch_stride, dy + start * C,
                         qkv + start * 3 * C, y + start * C, lse + start * H, T, H, D, i % H);
        }
    return -1;
}
