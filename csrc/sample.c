/* Chooses the next token of each of S sequences from its logits, by the rules that `sample` in
 * nn/reference.py explains.
 *
 * A draw depends on the key of its sequence and on its counter, and on nothing else. */
#include "kernels.h"
#include "simd.h"

/* 64 random bits: the first word of block `counter` + 1 of Philox4x64-10 with this key (two words
 * of 64 bits, in four). Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3
 * (2011), section 3.3. */
static uint64_t random_bits(const int32_t *key, int64_t counter) {
    uint64_t k[2], x[4] = {(uint64_t)counter + 1, 0, 0, 0};
    memcpy(k, key, sizeof k);
    for (int round = 0; round < 10; round++) {
        unsigned __int128 a = (unsigned __int128)x[0] * 0xD2E7470EE14C6C93u;
        unsigned __int128 b = (unsigned __int128)x[2] * 0xCA5A826395121157u;
        x[0] = (uint64_t)(b >> 64) ^ x[1] ^ k[0], x[1] = (uint64_t)b;
        x[2] = (uint64_t)(a >> 64) ^ x[3] ^ k[1], x[3] = (uint64_t)a;
        k[0] += 0x9E3779B97F4A7C15u, k[1] += 0xBB67AE8584CAA73Bu;
    }
    return x[0];
}

/* True if every x (V) is finite: a number minus itself is 0, and of the others none is. */
INLINE int all_finite(const real *x, int64_t V) {
    vec zero = {0};
    for (int64_t i = 0; i < V; i += VL) zero += load_part(x + i, V - i) - load_part(x + i, V - i);
    return sum_lanes(zero) == 0;
}

/* p = exp((x - max) / t); p may be x. Returns its sum, which float64 adds up in order. */
static double exponentials(real *p, const real *x, int64_t V, real max, real t) {
    double total = 0;
    for (int64_t i = 0; i < V; i += VL)
        store_part(p + i, vexp((load_part(x + i, V - i) - max) / t), V - i);
    for (int64_t i = 0; i < V; i++) total += p[i];
    return total;
}

/* ----------------------------------------------------------------------------- top-k and top-p */

/* True if token i is more likely than token j. Of two that are equal, the lower one is. */
INLINE int above(const real *p, int32_t i, int32_t j) {
    return p[i] > p[j] || (p[i] == p[j] && i < j);
}

/* Make a heap of the tokens in heap[i..n-1], with the most likely one at heap[i]. The two parts
 * below heap[i] are heaps already. */
static void sift_down(int32_t *heap, const real *p, int64_t i, int64_t n) {
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && above(p, heap[child + 1], heap[child])) child++;
        if (above(p, heap[i], heap[child])) return;
        int32_t token = heap[i];
        heap[i] = heap[child], heap[child] = token;
    }
}

/* Set the probabilities of all tokens to 0 but those of the most likely ones: `most` of them, or as
 * many as have the sum `enough`, if these are fewer. Returns their sum. */
static double keep_likely(real *p, int32_t *heap, int64_t V, int64_t most, double enough) {
    double sum = 0;
    int64_t left = V;
    for (int64_t i = 0; i < V; i++) heap[i] = (int32_t)i;
    for (int64_t i = V / 2; i-- > 0;) sift_down(heap, p, i, V);
    do {
        sum += p[heap[0]];
        heap[0] = heap[--left];
        sift_down(heap, p, 0, left);
    } while (left > 0 && V - left < most && sum < enough);
    for (int64_t i = 0; i < left; i++) p[heap[i]] = 0;
    return sum;
}

/* ------------------------------------------------------------------------------- one sequence */

/* The next token, or -1 if logits are not finite. p and heap (V) are working memory. */
static int32_t next_token(real *p, int32_t *heap, const real *x, const real *rules,
                          int64_t top_k, const int32_t *key, int64_t counter,
                          const int32_t *again, int64_t repeats, int64_t V) {
    real temperature = rules[0], top_p = rules[1], repetition = rules[2];
    if (!all_finite(x, V)) return -1;
    real max = row_max(x, V);
    if (repeats) {
        real lse = max + (real)log(exponentials(p, x, V, max, 1));
        for (int64_t i = 0; i < V; i++) p[i] = x[i] - lse;
        for (int64_t i = 0; i < repeats; i++) p[again[i]] = (x[again[i]] - lse) * repetition;
        x = p;
        max = row_max(x, V);
    }
    int32_t token = 0;
    if (temperature == 0) {
        while (token < V - 1 && x[token] != max) token++;
        return token;
    }
    double sum = exponentials(p, x, V, max, temperature);
    if (top_k > 0 || top_p < 1) { /* a sum that rounding left just below top_p counts as top_p */
        double enough = top_p < 1 ? top_p * sum * (1 - 1e-6) : INFINITY;
        sum = keep_likely(p, heap, V, top_k > 0 ? top_k : V, enough);
    }
    double rest = (double)(random_bits(key, counter) >> 11) * 0x1p-53 * sum; /* in [0, sum) */
    for (int32_t i = 0; i < V && rest >= 0; i++)
        if (p[i] > 0) rest -= p[token = i];
    return token;
}

int64_t FN(sample)(int32_t *chosen, real *work, int32_t *heap, const real *logits,
                   const real *rules, const int32_t *top_k, const int32_t *keys,
                   const int32_t *counters, const int32_t *again, const int32_t *offsets, int64_t S,
                   int64_t V, int64_t A, int threads) {
    int64_t bad = again ? first_bad_offset(offsets, A, S, A) : -1;
    if (bad >= 0) return A + bad;
    for (int64_t i = 0; again && i < A; i++)
        if (again[i] < 0 || again[i] >= V) return i;
    if (S * V < 16 * 1024) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        int64_t first, last;
        share(S, 1, threads, thread, &first, &last);
        for (int64_t s = first; s < last; s++) {
            const int32_t *ids = again ? again + offsets[s] : 0;
            int64_t repeats = again ? offsets[s + 1] - offsets[s] : 0;
            chosen[s] = next_token(work + s * V, heap + s * V, logits + s * V, rules + 3 * s,
                                   top_k[s], keys + 4 * s, counters[s], ids, repeats, V);
        }
    }
    return -1;
}
