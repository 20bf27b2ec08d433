/* One source, two precisions.
 *
 * Every .c file here is compiled twice: once as it is, with `real` a float, and once with
 * -DPYSFT_F64, with `real` a double. FN(layernorm_forward) is layernorm_forward_f32 in the first
 * and layernorm_forward_f64 in the second. Training uses float32. float64 serves to check gradients
 * against finite differences, to seven digits and more. */
#ifndef PYSFT_REAL_H
#define PYSFT_REAL_H

#include <stdint.h>

#ifdef PYSFT_F64
typedef double real;
#define FN(name) name##_f64
#else
typedef float real;
#define FN(name) name##_f32
#endif

#endif
