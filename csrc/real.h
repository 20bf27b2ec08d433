/* One source, two precisions.
 *
 * Every .c file here is compiled twice: plainly, where `real` is float, and with -DPYSFT_F64, where
 * `real` is double. FN(layernorm_forward) is then layernorm_forward_f32 or layernorm_forward_f64.
 * float32 trains. float64 is there so that gradients can be checked against finite differences to
 * seven digits and more. */
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
