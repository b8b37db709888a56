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
#include "_native_common.h"

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

#include "_sketch_kernels.h"

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
        AT_LEVEL(s->level, sums, s, v, code, m, sums);
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

static int set_sketch(sketch_t *s, int level, Py_ssize_t d, int bits, int similarity,
                      float epsilon)
{
    if (!check_level(level) || !check_positive("d", d))
        return 0;
    if (bits < 1 || bits > 2) {
        PyErr_Format(PyExc_ValueError, "bits is %d, expected 1 or 2", bits);
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

static void free_scratch(view_t *v)
{
    free(v->q);
    free(v->table);
}

static void estimates(const sketch_t *s, const view_t *v, const uint8_t *code, size_t n,
                      float *estimated, float *errors)
{
    for (size_t start = 0; start < n; start += BLOCK) {
        const size_t m = n - start < BLOCK ? n - start : BLOCK;
        AT_LEVEL(s->level, sums, s, v, code, m, estimated + start);
        for (size_t i = start; i < start + m; i++, code += s->code_size) {
            estimated[i] = estimate(s, v, code, estimated[i]);
            errors[i] = error_bound(s, v, code);
        }
    }
}

static PyObject *py_estimates(PyObject *self, PyObject *args)
{
    int level, bits, similarity;
    Py_ssize_t d;
    float epsilon, coarse;
    PyObject *o_query, *o_centroid, *o_codes, *o_estimate, *o_error, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nquery, ncentroid, ncodes, n, nerror;
    sketch_t s;
    view_t v = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "inipffOOOOO:estimates", &level, &d, &bits, &similarity, &epsilon,
                          &coarse, &o_query, &o_centroid, &o_codes, &o_estimate, &o_error) ||
        !set_sketch(&s, level, d, bits, similarity, epsilon))
        return NULL;
    const float *query, *centroid;
    const uint8_t *codes;
    float *out, *error;
    if (!(query = take(&all, o_query, "query", 'f', 0, &nquery)) ||
        !(centroid = take(&all, o_centroid, "centroid", 'f', 0, &ncentroid)) ||
        !(codes = take(&all, o_codes, "codes", 'B', 0, &ncodes)) ||
        !(out = take(&all, o_estimate, "out_estimate", 'f', 1, &n)) ||
        !(error = take(&all, o_error, "out_error", 'f', 1, &nerror)) ||
        !check_length("query", nquery, s.d) || !check_length("centroid", ncentroid, s.d) ||
        !check_product("codes", ncodes, n, s.code_size) || !check_length("out_error", nerror, n))
        goto done;
    if (!make_scratch(&s, &v)) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    make_view(&s, &v, query, similarity ? NULL : centroid, coarse);
    estimates(&s, &v, codes, n, out, error);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    free_scratch(&v);
    release(&all);
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

static PyObject *py_scan(PyObject *self, PyObject *args)
{
    int level, bits, similarity;
    Py_ssize_t d, capacity;
    long long row_start;
    float epsilon;
    PyObject *o_queries, *o_centroids, *o_query, *o_list, *o_coarse, *o_list_nos, *o_sizes,
        *o_offsets, *o_codes, *o_heaps, *o_counts, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nqueries, ncentroids, npair, nsizes, noffsets, nheaps, row;
    sketch_t s;
    view_t v = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "inipfnLOOOOOOOOOOO:scan", &level, &d, &bits, &similarity, &epsilon,
                          &capacity, &row_start, &o_queries, &o_centroids, &o_query, &o_list,
                          &o_coarse, &o_list_nos, &o_sizes, &o_offsets, &o_codes, &o_heaps,
                          &o_counts) ||
        !set_sketch(&s, level, d, bits, similarity, epsilon) ||
        !check_positive("capacity", capacity))
        return NULL;
    scan_t w = {.capacity = (size_t)capacity, .row_start = row_start};
    if (!(w.queries = take(&all, o_queries, "queries", 'f', 0, &nqueries)) ||
        !(w.centroids = take(&all, o_centroids, "centroids", 'f', 0, &ncentroids)) ||
        !(w.pair_query = take(&all, o_query, "pair_query", 'q', 0, &npair)) ||
        !(w.pair_list = take(&all, o_list, "pair_list", 'q', 0, &w.npairs)) ||
        !check_length("pair_query", npair, w.npairs) ||
        !(w.coarse = take(&all, o_coarse, "coarse", 'f', 0, &npair)) ||
        !check_length("coarse", npair, w.npairs) ||
        !(w.list_nos = take(&all, o_list_nos, "list_nos", 'q', 0, &w.nlists)) ||
        !(w.sizes = take(&all, o_sizes, "sizes", 'q', 0, &nsizes)) ||
        !(w.offsets = take(&all, o_offsets, "offsets", 'q', 0, &noffsets)) ||
        !(w.codes = take(&all, o_codes, "codes", 'B', 0, &w.bytes)) ||
        !(w.heaps = take(&all, o_heaps, "candidates", 'B', 1, &nheaps)) ||
        !(w.counts = take(&all, o_counts, "counts", 'q', 1, &w.nq)))
        goto done;
    w.nlist = ncentroids / s.d;
    if (!check_product("queries", nqueries, w.nq, s.d) ||
        !check_product("centroids", ncentroids, w.nlist, s.d) ||
        !check_length("sizes", nsizes, w.nlists) || !check_length("offsets", noffsets, w.nlists))
        goto done;
    if (__builtin_mul_overflow(w.capacity, sizeof(candidate_t), &row) ||
        (uintptr_t)w.heaps % _Alignof(candidate_t)) {
        PyErr_SetString(PyExc_ValueError, "candidates are out of range, or not aligned");
        goto done;
    }
    if (!check_product("candidates", nheaps, w.nq, row))
        goto done;
    if (row_start < 0 || !check_scan(&s, &w)) {
        PyErr_SetString(PyExc_ValueError, "a pair, list, row or count is out of range");
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
    free_scratch(&v);
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
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
