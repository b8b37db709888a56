/* teravec.kernels._sketch: scanning first codes (sketches) of residuals.
 *
 * A code of `bits` (1 or 2) a dimension is `bits` planes of ceil(d / 8) bytes, the lowest plane
 * first, dimension i in bit i % 8 of byte i / 8, unused bits zero; then two factors of 16 bits,
 * each the upper half of a positive float32's 31 bits: f = |r|^2 / <y, r> and n = |r|^2, where
 * r = x - c and y_i = u_i - (2^bits - 1) / 2, u_i the number in the planes. So <r, q> is about
 * f <y, q>, see sketch.py.
 *
 * An estimate depends on its query, list and code alone: every dot product is taken in one order
 * at one level. The heap of a query holds the `capacity` lowest by (estimate, place), which do not
 * depend on the order of scanning. Buffers are checked against each other, and the interpreter
 * lock is released.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#define SKETCH_X86 1
#include <immintrin.h>
#else
#define SKETCH_X86 0
#endif

enum { BLOCK = 256, FACTORS = 4, LANES = 16 };

typedef struct {
    size_t d, bits, plane_bytes, code_size, groups; /* groups of LANES dimensions */
    int level, similarity;
    float epsilon; /* error bound, in standard deviations of the estimator's error */
} sketch_t;

/* A query as one list sees it. */
typedef struct {
    float *q;     /* groups * LANES, zero beyond d */
    float *table; /* plane_bytes * 256 sums of q, at level 0 */
    float sum, norm, coarse;
} view_t;

typedef struct {
    float estimate, error;
    int64_t place;
} candidate_t;

/* ------------------------------------------------------------------ dot products */

/* sums[i] = sum over planes j of 2^j times the sum of q where the plane has a bit. */
static void sums_base(const sketch_t *s, const view_t *v, const uint8_t *codes, size_t n,
                      float *sums)
{
    for (size_t i = 0; i < n; i++, codes += s->code_size) {
        float total = 0;
        for (size_t j = 0; j < s->bits; j++) {
            const uint8_t *plane = codes + j * s->plane_bytes;
            float sum = 0;
            for (size_t b = 0; b < s->plane_bytes; b++)
                sum += v->table[b * 256 + plane[b]];
            total += j ? 2 * sum : sum;
        }
        sums[i] = total;
    }
}

#if SKETCH_X86
#define AVX512 __attribute__((target("avx512f"))) static inline
#define AVX2 __attribute__((target("avx2"))) static inline

/* A mask may reach one byte past its plane, into factors at most; q is zero there. */
AVX512 __m512 plane_avx512(const view_t *v, const uint8_t *plane, size_t groups)
{
    __m512 sum = _mm512_setzero_ps();
    for (size_t g = 0; g < groups; g++) {
        uint16_t mask;
        memcpy(&mask, plane + 2 * g, 2);
        sum = _mm512_mask_add_ps(sum, mask, sum, _mm512_loadu_ps(v->q + g * LANES));
    }
    return sum;
}

AVX512 __m512 code_avx512(const sketch_t *s, const view_t *v, const uint8_t *code)
{
    const __m512 low = plane_avx512(v, code, s->groups);
    if (s->bits == 1)
        return low;
    const __m512 high = plane_avx512(v, code + s->plane_bytes, s->groups);
    return _mm512_add_ps(low, _mm512_add_ps(high, high));
}

AVX512 void sums_avx512(const sketch_t *s, const view_t *v, const uint8_t *codes, size_t n,
                        float *sums)
{
    const size_t size = s->code_size;
    size_t i = 0;
    for (; i + 4 <= n; i += 4, codes += 4 * size) { /* four chains of additions at a time */
        const __m512 a = code_avx512(s, v, codes), b = code_avx512(s, v, codes + size);
        const __m512 c = code_avx512(s, v, codes + 2 * size);
        const __m512 e = code_avx512(s, v, codes + 3 * size);
        sums[i] = _mm512_reduce_add_ps(a), sums[i + 1] = _mm512_reduce_add_ps(b);
        sums[i + 2] = _mm512_reduce_add_ps(c), sums[i + 3] = _mm512_reduce_add_ps(e);
    }
    for (; i < n; i++, codes += size)
        sums[i] = _mm512_reduce_add_ps(code_avx512(s, v, codes));
}

AVX2 __m256 plane_avx2(const view_t *v, const uint8_t *plane, size_t bytes)
{
    const __m256i select = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256 sum = _mm256_setzero_ps();
    for (size_t b = 0; b < bytes; b++) {
        const __m256i bit = _mm256_and_si256(_mm256_set1_epi32(plane[b]), select);
        const __m256 mask = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bit, select));
        sum = _mm256_add_ps(sum, _mm256_and_ps(mask, _mm256_loadu_ps(v->q + b * 8)));
    }
    return sum;
}

AVX2 void sums_avx2(const sketch_t *s, const view_t *v, const uint8_t *codes, size_t n,
                    float *sums)
{
    for (size_t i = 0; i < n; i++, codes += s->code_size) {
        __m256 all = plane_avx2(v, codes, s->plane_bytes);
        if (s->bits == 2) {
            const __m256 high = plane_avx2(v, codes + s->plane_bytes, s->plane_bytes);
            all = _mm256_add_ps(all, _mm256_add_ps(high, high));
        }
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
        four = _mm_add_ps(four, _mm_movehl_ps(four, four));
        sums[i] = _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
    }
}
#endif

static void code_sums(const sketch_t *s, const view_t *v, const uint8_t *codes, size_t n,
                      float *sums)
{
#if SKETCH_X86
    if (s->level == 2) {
        sums_avx512(s, v, codes, n, sums);
        return;
    }
    if (s->level == 1) {
        sums_avx2(s, v, codes, n, sums);
        return;
    }
#endif
    sums_base(s, v, codes, n, sums);
}

/* ------------------------------------------------------------------ estimates */

/* q less the centroid, which is NULL for inner products. */
static void make_view(const sketch_t *s, view_t *v, const float *query, const float *centroid,
                      float coarse)
{
    double sum = 0, square = 0;
    for (size_t i = 0; i < s->d; i++) {
        v->q[i] = centroid ? query[i] - centroid[i] : query[i];
        sum += v->q[i];
        square += (double)v->q[i] * v->q[i];
    }
    v->sum = (float)sum, v->norm = (float)sqrt(square), v->coarse = coarse;
    if (s->level)
        return;
    for (size_t b = 0; b < s->plane_bytes; b++) {
        float *entry = v->table + b * 256;
        entry[0] = 0;
        for (unsigned byte = 1; byte < 256; byte++)
            entry[byte] =
                entry[byte & (byte - 1)] + v->q[b * 8 + (unsigned)__builtin_ctz(byte)];
    }
}

static inline float factor(const uint8_t *at)
{
    uint16_t half;
    memcpy(&half, at, 2);
    const uint32_t word = (uint32_t)half << 15;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

/* Lower is closer: squared distances, or inner products negated. */
static inline float estimate(const sketch_t *s, const view_t *v, const uint8_t *code, float sum)
{
    const uint8_t *factors = code + s->bits * s->plane_bytes;
    const float dot = sum - (s->bits == 1 ? 0.5f : 1.5f) * v->sum;
    const float product = factor(factors) * dot;
    if (s->similarity)
        return -(v->coarse + product);
    return v->coarse + factor(factors + 2) - 2 * product;
}

static float error_bound(const sketch_t *s, const view_t *v, const uint8_t *code)
{
    const uint8_t *factors = code + s->bits * s->plane_bytes;
    const float f = factor(factors), n = factor(factors + 2);
    double square = 0.25 * (double)s->d; /* |y|^2: every y_i is +-1/2, or +-3/2 */
    if (s->bits == 2) {
        size_t small = 0;
        for (size_t b = 0; b < s->plane_bytes; b++)
            small += (size_t)__builtin_popcount((unsigned)(code[b] ^ code[s->plane_bytes + b]));
        square += 2 * (double)(s->d - small);
    }
    const double missed = (double)f * f * square - n; /* squared length that the code misses */
    const double freedom = s->d > 1 ? (double)(s->d - 1) : 1.0;
    const double bound = s->epsilon * v->norm * sqrt(missed > 0 ? missed / freedom : 0);
    return (float)(s->similarity ? bound : 2 * bound);
}

/* ------------------------------------------------------------------ the heap of a query */

static inline int before(const candidate_t *a, const candidate_t *b)
{
    return a->estimate < b->estimate || (a->estimate == b->estimate && a->place < b->place);
}

/* Put `item` in the place of the root or below it, where the greatest is at the root. */
static void sift_down(candidate_t *heap, size_t n, candidate_t item)
{
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(heap + child, heap + child + 1))
            child++;
        if (!before(&item, heap + child))
            break;
        heap[at] = heap[child];
    }
    heap[at] = item;
}

static void sift_up(candidate_t *heap, size_t at, candidate_t item)
{
    for (; at && before(heap + (at - 1) / 2, &item); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = item;
}

static void scan_list(const sketch_t *s, const view_t *v, const uint8_t *codes, size_t n,
                      int64_t place, candidate_t *heap, int64_t *count, size_t capacity)
{
    float sums[BLOCK];
    size_t held = (size_t)*count;
    for (size_t start = 0; start < n; start += BLOCK) {
        const size_t m = n - start < BLOCK ? n - start : BLOCK;
        const uint8_t *code = codes + start * s->code_size;
        code_sums(s, v, code, m, sums);
        for (size_t i = 0; i < m; i++, code += s->code_size) {
            candidate_t item = {estimate(s, v, code, sums[i]), 0, place + (int64_t)(start + i)};
            if (held == capacity && !before(&item, heap))
                continue;
            item.error = error_bound(s, v, code);
            if (held < capacity)
                sift_up(heap, held, item), held++;
            else
                sift_down(heap, held, item);
        }
    }
    *count = (int64_t)held;
}

/* ------------------------------------------------------------------ functions */

static int best_level(void)
{
#if SKETCH_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return 2;
    return __builtin_cpu_supports("avx2") ? 1 : 0;
#else
    return 0;
#endif
}

static PyObject *py_best_level(PyObject *self, PyObject *args)
{
    (void)self, (void)args;
    return PyLong_FromLong(best_level());
}

static int set_sketch(sketch_t *s, int level, Py_ssize_t d, int bits, int similarity,
                      float epsilon)
{
    if (level < 0 || level > best_level() || d < 1 || d > INT32_MAX || bits < 1 || bits > 2) {
        PyErr_Format(PyExc_ValueError, "level %d, d %zd, bits %d: out of range", level, d, bits);
        return 0;
    }
    s->level = level, s->similarity = similarity, s->epsilon = epsilon;
    s->d = (size_t)d, s->bits = (size_t)bits;
    s->plane_bytes = (s->d + 7) / 8;
    s->groups = (s->d + LANES - 1) / LANES;
    s->code_size = s->bits * s->plane_bytes + FACTORS;
    return 1;
}

static int make_scratch(const sketch_t *s, view_t *v)
{
    v->q = calloc(s->groups * LANES, sizeof *v->q);
    v->table = s->level ? NULL : malloc(s->plane_bytes * 256 * sizeof *v->table);
    return v->q && (s->level || v->table);
}

static int check_bytes(const char *name, const Py_buffer *found, size_t count, size_t size)
{
    size_t expected;
    if (!__builtin_mul_overflow(count, size, &expected) && (size_t)found->len == expected)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes, expected %zu times %zu", name, found->len,
                 count, size);
    return 0;
}

static PyObject *py_estimates(PyObject *self, PyObject *args)
{
    int level, bits, similarity;
    Py_ssize_t d;
    float epsilon, coarse;
    Py_buffer query, centroid, codes, out, error;
    sketch_t s;
    view_t v = {0};
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "inipffy*y*y*w*w*:estimates", &level, &d, &bits, &similarity,
                          &epsilon, &coarse, &query, &centroid, &codes, &out, &error))
        return NULL;
    if (!set_sketch(&s, level, d, bits, similarity, epsilon))
        goto done;
    const size_t n = (size_t)codes.len / s.code_size;
    if (!check_bytes("query", &query, s.d, 4) || !check_bytes("centroid", &centroid, s.d, 4) ||
        !check_bytes("codes", &codes, n, s.code_size) || !check_bytes("out", &out, n, 4) ||
        !check_bytes("error", &error, n, 4))
        goto done;
    if (!make_scratch(&s, &v)) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    make_view(&s, &v, query.buf, similarity ? NULL : centroid.buf, coarse);
    const uint8_t *code = codes.buf;
    float *estimates = out.buf, *errors = error.buf;
    for (size_t start = 0; start < n; start += BLOCK) {
        const size_t m = n - start < BLOCK ? n - start : BLOCK;
        code_sums(&s, &v, code, m, estimates + start);
        for (size_t i = start; i < start + m; i++, code += s.code_size) {
            estimates[i] = estimate(&s, &v, code, estimates[i]);
            errors[i] = error_bound(&s, &v, code);
        }
    }
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    free(v.q), free(v.table);
    PyBuffer_Release(&query), PyBuffer_Release(&centroid), PyBuffer_Release(&codes);
    PyBuffer_Release(&out), PyBuffer_Release(&error);
    return result;
}

/* Lists in memory, and (query, list) pairs to scan. */
typedef struct {
    const float *queries, *centroids, *coarse;
    const int64_t *pair_query, *pair_list, *list_nos, *sizes, *offsets;
    const uint8_t *codes;
    size_t nq, nlist, npairs, nlists, bytes, capacity;
    int64_t row_start;
    candidate_t *heaps;
    int64_t *counts;
} scan_t;

static int check_scan(const sketch_t *s, const scan_t *w)
{
    for (size_t i = 0; i < w->nlists; i++) {
        size_t length, end;
        if (w->list_nos[i] < 0 || (size_t)w->list_nos[i] >= w->nlist || w->sizes[i] < 0 ||
            w->offsets[i] < 0 ||
            __builtin_mul_overflow((size_t)w->sizes[i], s->code_size, &length) ||
            __builtin_add_overflow((size_t)w->offsets[i], length, &end) || end > w->bytes)
            return 0;
    }
    for (size_t i = 0; i < w->npairs; i++)
        if (w->pair_query[i] < 0 || (size_t)w->pair_query[i] >= w->nq || w->pair_list[i] < 0 ||
            (size_t)w->pair_list[i] >= w->nlists)
            return 0;
    for (size_t i = 0; i < w->nq; i++)
        if (w->counts[i] < 0 || (size_t)w->counts[i] > w->capacity)
            return 0;
    return 1;
}

static void scan(const sketch_t *s, view_t *v, const scan_t *w)
{
    for (size_t i = 0; i < w->npairs; i++) {
        const size_t query = (size_t)w->pair_query[i], at = (size_t)w->pair_list[i];
        const int64_t list_no = w->list_nos[at];
        const float *centroid = w->centroids + (size_t)list_no * s->d;
        make_view(s, v, w->queries + query * s->d, s->similarity ? NULL : centroid, w->coarse[i]);
        scan_list(s, v, w->codes + w->offsets[at], (size_t)w->sizes[at],
                  (list_no << 32) + w->row_start, w->heaps + query * w->capacity,
                  w->counts + query, w->capacity);
    }
}

enum { QUERIES, CENTROIDS, PAIR_QUERY, PAIR_LIST, COARSE, LIST_NOS, SIZES, OFFSETS, CODES, HEAPS,
       COUNTS, BUFFERS };

static PyObject *py_scan(PyObject *self, PyObject *args)
{
    int level, bits, similarity;
    Py_ssize_t d, capacity;
    long long row_start;
    float epsilon;
    Py_buffer b[BUFFERS];
    sketch_t s;
    view_t v = {0};
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "inipfnLy*y*y*y*y*y*y*y*y*w*w*:scan", &level, &d, &bits,
                          &similarity, &epsilon, &capacity, &row_start, b + QUERIES,
                          b + CENTROIDS, b + PAIR_QUERY, b + PAIR_LIST, b + COARSE, b + LIST_NOS,
                          b + SIZES, b + OFFSETS, b + CODES, b + HEAPS, b + COUNTS))
        return NULL;
    if (!set_sketch(&s, level, d, bits, similarity, epsilon))
        goto done;
    scan_t w = {
        .queries = b[QUERIES].buf, .centroids = b[CENTROIDS].buf, .coarse = b[COARSE].buf,
        .pair_query = b[PAIR_QUERY].buf, .pair_list = b[PAIR_LIST].buf,
        .list_nos = b[LIST_NOS].buf, .sizes = b[SIZES].buf, .offsets = b[OFFSETS].buf,
        .codes = b[CODES].buf, .bytes = (size_t)b[CODES].len, .row_start = row_start,
        .nq = (size_t)b[COUNTS].len / 8, .nlist = (size_t)b[CENTROIDS].len / 4 / s.d,
        .npairs = (size_t)b[COARSE].len / 4, .nlists = (size_t)b[LIST_NOS].len / 8,
        .capacity = (size_t)capacity, .heaps = b[HEAPS].buf, .counts = b[COUNTS].buf,
    };
    size_t row;
    if (capacity < 1 || row_start < 0 || __builtin_mul_overflow(w.nq, w.capacity, &row)) {
        PyErr_Format(PyExc_ValueError, "capacity %zd: out of range", capacity);
        goto done;
    }
    if (!check_bytes("queries", b + QUERIES, w.nq, 4 * s.d) ||
        !check_bytes("counts", b + COUNTS, w.nq, 8) ||
        !check_bytes("centroids", b + CENTROIDS, w.nlist, 4 * s.d) ||
        !check_bytes("pair_query", b + PAIR_QUERY, w.npairs, 8) ||
        !check_bytes("pair_list", b + PAIR_LIST, w.npairs, 8) ||
        !check_bytes("coarse", b + COARSE, w.npairs, 4) ||
        !check_bytes("sizes", b + SIZES, w.nlists, 8) ||
        !check_bytes("offsets", b + OFFSETS, w.nlists, 8) ||
        !check_bytes("heaps", b + HEAPS, row, sizeof(candidate_t)))
        goto done;
    if (!check_scan(&s, &w)) {
        PyErr_SetString(PyExc_ValueError, "a pair, list or count is out of range");
        goto done;
    }
    if (!make_scratch(&s, &v)) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    scan(&s, &v, &w);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    free(v.q), free(v.table);
    for (int i = 0; i < BUFFERS; i++)
        PyBuffer_Release(b + i);
    return result;
}

static PyMethodDef methods[] = {
    {"best_level", py_best_level, METH_NOARGS, "Highest level: 0 baseline, 1 AVX2, 2 AVX-512F."},
    {"estimates", py_estimates, METH_VARARGS, "Estimate and error bound of each code of a list."},
    {"scan", py_scan, METH_VARARGS, "Keep the lowest estimates of each query over pairs."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_sketch", "Scanning first codes.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__sketch(void)
{
    return PyModule_Create(&definition);
}
