/* Shared by the compiled kernels: instruction sets chosen at run time, and checked buffers.
 *
 * Functions take contiguous buffers, check each one's element type, alignment and size against the
 * others, raise ValueError where they disagree, and compute with the interpreter lock released.
 * The caller must not change the buffers meanwhile.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#define NATIVE_X86 1
#include <immintrin.h>
#else
#define NATIVE_X86 0
#endif

#define AVX2_TARGET __attribute__((target("avx2,fma,f16c")))
#define AVX512_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma,f16c")))

/* ------------------------------------------------------------------ instruction sets */

static int best_level(void)
{
#if NATIVE_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("f16c"))
        return 0;
    const int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl");
    return wide ? 2 : 1;
#else
    return 0;
#endif
}

/* Call a kernel at a level that check_level has accepted. */
#if NATIVE_X86
#define AT_LEVEL(level, call, ...)                                                               \
    ((level) == 2 ? call##_avx512(__VA_ARGS__)                                                   \
                  : (level) == 1 ? call##_avx2(__VA_ARGS__) : call##_base(__VA_ARGS__))
#else
#define AT_LEVEL(level, call, ...) call##_base(__VA_ARGS__)
#endif

static inline int check_level(int level)
{
    if (level >= 0 && level <= best_level())
        return 1;
    PyErr_Format(PyExc_ValueError, "level is %d, this processor has 0 to %d", level, best_level());
    return 0;
}

/* ------------------------------------------------------------------ vectors */

/* GCC vectors of VL float32 lanes, with NAME's suffix of the instruction set. A header of kernels
 * begins with VECTOR_TYPES, and VL and NAME are defined where it is included. VECU may be unaligned. */
#define VEC NAME(vec)
#define VECU NAME(vecu)
#define IVEC NAME(ivec)
#define VECTOR_TYPES                                                                             \
    typedef float VEC __attribute__((vector_size(VL * 4)));                                      \
    typedef float VECU __attribute__((vector_size(VL * 4), aligned(4), may_alias));              \
    typedef int32_t IVEC __attribute__((vector_size(VL * 4)));

#define LOAD(p) ((VEC) * (const VECU *)(p))
#define STORE(p, v) (*(VECU *)(p) = (VECU)(v))

/* ------------------------------------------------------------------ buffers */

enum { MAX_BUFFERS = 20 };

typedef struct {
    Py_buffer views[MAX_BUFFERS];
    int count;
} buffers_t;

static void release(buffers_t *all)
{
    while (all->count)
        PyBuffer_Release(&all->views[--all->count]);
}

/* The object's memory as `*length` elements of a type ('f', 'd', 'i', 'q', or 'B' for bytes and
 * truth values); NULL on error. */
static void *take(buffers_t *all, PyObject *object, const char *name, char type, int writable,
                  size_t *length)
{
    static char empty[64] __attribute__((aligned(64)));
    Py_buffer *view = &all->views[all->count];
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    const Py_ssize_t size = type == 'B' ? 1 : type == 'd' || type == 'q' ? 8 : 4;
    if (PyObject_GetBuffer(object, view, flags) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "%s is not a contiguous%s buffer", name,
                         writable ? " writable" : "");
        }
        return NULL;
    }
    all->count++;
    const char found = view->format && !view->format[1] ? view->format[0] : '?';
    const int same = found == type || (type == 'q' && found == 'l' && sizeof(long) == 8) ||
                     (type == 'i' && found == 'l' && sizeof(long) == 4) ||
                     (type == 'B' && found == '?');
    if (!same || view->itemsize != size) {
        PyErr_Format(PyExc_ValueError, "%s has elements '%s', expected '%c'", name,
                     view->format ? view->format : "?", type);
        return NULL;
    }
    if (view->len && (uintptr_t)view->buf % (uintptr_t)size) { /* NumPy calls empty ones aligned */
        PyErr_Format(PyExc_ValueError, "%s is not aligned to %zd bytes", name, size);
        return NULL;
    }
    *length = (size_t)(view->len / size);
    return *length ? view->buf : empty;
}

static int check_length(const char *name, size_t found, size_t expected)
{
    if (found == expected)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s has %zu elements, expected %zu", name, found, expected);
    return 0;
}

/* Check that `found` is a times b, without overflow. */
static inline int check_product(const char *name, size_t found, size_t a, size_t b)
{
    size_t expected;
    if (__builtin_mul_overflow(a, b, &expected)) {
        PyErr_Format(PyExc_ValueError, "%s would have %zu times %zu elements", name, a, b);
        return 0;
    }
    return check_length(name, found, expected);
}

static int check_positive(const char *name, Py_ssize_t value)
{
    if (value > 0 && value <= INT32_MAX)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s is %zd, expected 1 to 2147483647", name, value);
    return 0;
}
