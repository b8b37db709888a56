/* Includes the file named by KERNELS once per instruction set, with these macros:
 *
 *   VL        float32 values in a vector
 *   NAME(x)   x with the level's ending
 *   FN        storage class and target of its functions
 *   INLINE    the same, of functions that are always inlined
 *
 * The file undefines all four at its end.
 */

#define VL 4
#define NAME(x) x##_base
#define FN static
#define INLINE static inline __attribute__((always_inline))
#include KERNELS

#if NATIVE_X86
#define VL 8
#define NAME(x) x##_avx2
#define FN AVX2_TARGET static
#define INLINE AVX2_TARGET static inline __attribute__((always_inline))
#include KERNELS

#define VL 16
#define NAME(x) x##_avx512
#define FN AVX512_TARGET static
#define INLINE AVX512_TARGET static inline __attribute__((always_inline))
#include KERNELS
#endif

#undef KERNELS
