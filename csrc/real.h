/* One source, two precisions, and products in a third.
 *
 * Every .c file here is compiled twice: once as it is, with `real` a float, and once with
 * -DPYSFT_F64, with `real` a double. FN(layernorm_forward) is layernorm_forward_f32 in the first
 * and layernorm_forward_f64 in the second. Training uses float32. float64 serves to check gradients
 * against finite differences, to seven digits and more.
 *
 * The files with matrix products are also compiled with -DPYSFT_BF16, where the processor can
 * multiply bf16. FN(matmul_forward) is matmul_forward_bf16 then. All its arrays are floats, and it
 * rounds the factors of its products to bf16 (factors.h). */
#ifndef PYSFT_REAL_H
#define PYSFT_REAL_H

#include <stdint.h>

#if defined(PYSFT_F64)
typedef double real;
#define FN(name) name##_f64
#elif defined(PYSFT_BF16)
typedef float real;
#define FN(name) name##_bf16
#else
typedef float real;
#define FN(name) name##_f32
#endif

#endif
