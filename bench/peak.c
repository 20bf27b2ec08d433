/* The ceilings of this processor: multiply-adds in registers, and copying. machine.py compiles this
 * file with the flags of the kernels and compares their speed with it. It is not part of pysft. */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define LANES (VECTOR_BYTES / 4)

/* One step of chain i, and its floating-point operations on each element. */
#if defined(__FMA__) || defined(__aarch64__)
#define STEP(acc, i) (acc * factor + term)
#define OPERATIONS 2
#else /* half of the chains multiply and half add: such a processor does both at a time */
#define STEP(acc, i) ((i) % 2 ? acc + term : acc * factor)
#define OPERATIONS 1
#endif

/* Chains that do not wait for each other: they hide the latency, and fit into 16 registers. */
#define CHAINS 14

typedef float vec __attribute__((vector_size(VECTOR_BYTES)));

/* Floating-point operations of peak(rounds) on one thread. */
__attribute__((visibility("default")))
int64_t peak_operations(int64_t rounds) { return rounds * CHAINS * LANES * OPERATIONS; }

#ifdef __AVX512BF16__
#include <immintrin.h>
/* As `peak`, with products of pairs of bf16: two multiply-adds for each lane, so twice as many
 * operations. */
__attribute__((visibility("default")))
void peak_bf16(float *sink, int64_t rounds, float factor_, float term_, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        __m512 acc[CHAINS];
        __m512bh factor = _mm512_cvtne2ps_pbh(_mm512_set1_ps(factor_), _mm512_set1_ps(factor_));
        __m512bh term = _mm512_cvtne2ps_pbh(_mm512_set1_ps(term_), _mm512_set1_ps(term_));
        for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_set1_ps((float)i);
        for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 16
            for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_dpbf16_ps(acc[i], factor, term);
        for (int i = 1; i < CHAINS; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
        sink[t] = _mm512_reduce_add_ps(acc[0]);
    }
}
#endif

/* Do `rounds` steps of each chain on each of `threads` threads, without touching memory. factor and
 * term come from the caller, and sink (threads) takes the sums, so the compiler can leave nothing
 * out. With factor = 1 no number becomes infinite or denormal, which could take longer. */
__attribute__((visibility("default")))
void peak(float *sink, int64_t rounds, float factor_, float term_, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        vec acc[CHAINS], factor = factor_ - (vec){}, term = term_ - (vec){};
        for (int i = 0; i < CHAINS; i++) acc[i] = term * (float)i;
        for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 16
            for (int i = 0; i < CHAINS; i++) acc[i] = STEP(acc[i], i);
        for (int i = 1; i < CHAINS; i++) acc[0] += acc[i];
        float total = 0;
        for (int i = 0; i < LANES; i++) total += acc[0][i];
        sink[t] = total;
    }
}

/* Copy n bytes `rounds` times, each thread its own part: the speed of memory, or of the cache that
 * holds n bytes. */
__attribute__((visibility("default")))
void copy(char *to, const char *from, int64_t n, int64_t rounds, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        int64_t first = n * t / threads, last = n * (t + 1) / threads;
        for (int64_t r = 0; r < rounds; r++) memcpy(to + first, from + first, last - first);
    }
}
