/* teravec.kernels._scan: the k best codes of inverted lists for many queries at once.
 *
 * A list's codes are unpacked once for all queries that want the list. Faiss's scanners unpack them
 * again for every query; unpacking is most of their work.
 *
 * Codes are those of Faiss: float32, float16, and scalar quantizers of 8, 6 and 4 bits of residuals,
 * where value i of a code stands for low[i] + step[i] * value.
 */
#include "_native_common.h"

/* A place names a vector: list number << PLACE_BITS | row within the list. */
enum { PLACE_BITS = 32 };
/* Queries prepared at a time: with 384 dimensions they fill half of a 96 KiB first-level cache. */
enum { GROUP = 32 };
enum { MOST_LANES = 16 };
enum { CODEC_FLAT, CODEC_FP16, CODEC_SQ8, CODEC_SQ6, CODEC_SQ4, CODECS };

/* Entries are lists, or parts of them: sizes[e] codes at codes + offsets[e], rows from row_starts[e]
 * of list list_nos[e], wanted by the queries pair_queries[pair_starts[e]..pair_starts[e + 1]]. */
typedef struct {
    int codec, similarity;
    size_t d, stride, code_size, k;
    const uint8_t *codes;
    const int64_t *offsets, *sizes, *list_nos, *row_starts, *pair_starts;
    const int32_t *pair_queries;
    const float *pair_coarse; /* inner product of query and centroid; NULL without residuals */
    const float *queries, *centroids; /* centroids NULL without residuals */
    const float *low, *step;          /* of `stride` values; low may be NULL: zeros */
    float *best;                      /* (nq, k), each a heap with its worst first */
    int64_t *places;
} scan_t;

typedef struct {
    float *queries, *rows; /* (GROUP, stride) and (MOST_LANES, stride) */
    float base[GROUP];
    float *best[GROUP];
    int64_t *places[GROUP];
} work_t;

static float half_to_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t bits;
    float value;
    if (rest < 0x400) { /* zero or subnormal: rest * 2^-24 */
        value = (float)rest * 0x1p-24f;
        memcpy(&bits, &value, 4);
    } else if (rest < 0x7c00) {
        bits = (rest << 13) + ((uint32_t)112 << 23);
    } else {
        bits = 0x7f800000 | (rest & 0x3ff) << 13;
    }
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
}

/* Value k of a code. */
static inline float value_at(int codec, const uint8_t *code, size_t k)
{
    uint32_t bits;
    uint16_t half;
    switch (codec) {
    case CODEC_FP16: memcpy(&half, code + 2 * k, 2); return half_to_float(half);
    case CODEC_SQ8: return code[k];
    case CODEC_SQ4: return (float)(code[k / 2] >> (k % 2 * 4) & 15);
    default:
        bits = code[6 * k / 8];
        if (6 * k % 8 > 2) /* its upper bits are in the next byte */
            bits |= (uint32_t)code[6 * k / 8 + 1] << 8;
        return (float)(bits >> 6 * k % 8 & 63);
    }
}

/* Put a value where the worst stood, and restore the heap. */
static void replace_worst(float *best, int64_t *places, size_t k, float value, int64_t place)
{
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= k)
            break;
        if (child + 1 < k && best[child + 1] > best[child])
            child++;
        if (best[child] <= value)
            break;
        best[at] = best[child];
        places[at] = places[child];
        at = child;
    }
    best[at] = value;
    places[at] = place;
}

/* Queries of a group less the list's centroid and `low` (l2), or as they are (inner product, where
 * what is the same for all codes goes into `base`). */
static void prepare_queries(const scan_t *s, work_t *w, int64_t list_no, size_t pair, size_t n)
{
    const float *centroid = s->centroids ? s->centroids + (size_t)list_no * s->d : NULL;
    for (size_t i = 0; i < n; i++) {
        const size_t number = (size_t)s->pair_queries[pair + i];
        const float *query = s->queries + number * s->d;
        float *out = w->queries + i * s->stride, base = 0;
        w->best[i] = s->best + number * s->k;
        w->places[i] = s->places + number * s->k;
        memcpy(out, query, 4 * s->d);
        if (s->similarity) {
            if (s->low)
                for (size_t k = 0; k < s->d; k++)
                    base += query[k] * s->low[k];
            w->base[i] = base + (s->pair_coarse ? s->pair_coarse[pair + i] : 0);
        } else {
            if (centroid)
                for (size_t k = 0; k < s->d; k++)
                    out[k] -= centroid[k];
            if (s->low)
                for (size_t k = 0; k < s->d; k++)
                    out[k] -= s->low[k];
        }
    }
}

#define VL 4
#define NAME(x) x##_base
#define FN static
#define INLINE static inline __attribute__((always_inline))
#include "_scan_kernels.h"

#if NATIVE_X86
#define VL 8
#define NAME(x) x##_avx2
#define FN AVX2_TARGET static
#define INLINE AVX2_TARGET static inline __attribute__((always_inline))
#include "_scan_kernels.h"

#define VL 16
#define NAME(x) x##_avx512
#define FN AVX512_TARGET static
#define INLINE AVX512_TARGET static inline __attribute__((always_inline))
#include "_scan_kernels.h"
#endif

/* ------------------------------------------------------------------ functions */

static const size_t BITS_OF[CODECS] = {32, 16, 8, 6, 4};

static int check_entries(const scan_t *s, size_t nentries, size_t ncodes, size_t npairs, size_t nq,
                         size_t nlist)
{
    for (size_t e = 0; e < nentries; e++) {
        const int64_t offset = s->offsets[e], size = s->sizes[e];
        size_t bytes;
        if (offset < 0 || size < 0 ||
            __builtin_mul_overflow((size_t)size, s->code_size, &bytes) || bytes > ncodes ||
            (size_t)offset > ncodes - bytes) {
            PyErr_Format(PyExc_ValueError, "entry %zu: %lld codes at byte %lld of %zu", e,
                         (long long)size, (long long)offset, ncodes);
            return 0;
        }
        if (s->list_nos[e] < 0 || s->list_nos[e] > INT32_MAX || s->row_starts[e] < 0 ||
            s->row_starts[e] + size > UINT32_MAX ||
            (s->centroids && (size_t)s->list_nos[e] >= nlist)) {
            PyErr_Format(PyExc_ValueError, "entry %zu: row %lld of list %lld", e,
                         (long long)s->row_starts[e], (long long)s->list_nos[e]);
            return 0;
        }
        if (s->pair_starts[e] < 0 || s->pair_starts[e] > s->pair_starts[e + 1]) {
            PyErr_Format(PyExc_ValueError, "entry %zu: pair_starts falls", e);
            return 0;
        }
    }
    if (nentries && (size_t)s->pair_starts[nentries] > npairs) {
        PyErr_Format(PyExc_ValueError, "pair_starts ends beyond %zu pairs", npairs);
        return 0;
    }
    for (size_t pair = 0; pair < npairs; pair++)
        if (s->pair_queries[pair] < 0 || (size_t)s->pair_queries[pair] >= nq) {
            PyErr_Format(PyExc_ValueError, "pair %zu: query %d of %zu", pair, s->pair_queries[pair],
                         nq);
            return 0;
        }
    return 1;
}

static float *zeros(size_t n)
{
    float *memory = aligned_alloc(64, (4 * n + 63) / 64 * 64);
    if (memory)
        memset(memory, 0, 4 * n);
    return memory;
}

static int scan(scan_t *s, int level, size_t nentries)
{
    work_t work = {.queries = zeros(GROUP * s->stride), .rows = zeros(MOST_LANES * s->stride)};
    const int ready = work.queries && work.rows;
    if (ready) {
        Py_BEGIN_ALLOW_THREADS;
        AT_LEVEL(level, scan_entries, s, &work, 0, nentries);
        Py_END_ALLOW_THREADS;
    } else {
        PyErr_NoMemory();
    }
    free(work.queries);
    free(work.rows);
    return ready;
}

/* An optional buffer of floats: NULL for None. */
static int take_floats(buffers_t *all, PyObject *object, const char *name, const float **out,
                       size_t *length)
{
    *out = NULL, *length = 0;
    if (object == Py_None)
        return 1;
    *out = take(all, object, name, 'f', 0, length);
    return *out != NULL;
}

static PyObject *py_scan(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t d, k;
    PyObject *o_codes, *o_entries, *o_pair_starts, *o_pair_queries, *o_pair_coarse, *o_queries,
        *o_centroids, *o_low, *o_step, *o_best, *o_places, *result = NULL;
    buffers_t all = {.count = 0};
    size_t ncodes, nwords, nstarts, npairs, ncoarse, nqueries, ncentroids, nlow, nstep, nbest,
        nplaces;
    scan_t s = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "iiinnOOOOOOOOOOO:scan", &level, &s.codec, &s.similarity, &d, &k,
                          &o_codes, &o_entries, &o_pair_starts, &o_pair_queries, &o_pair_coarse,
                          &o_queries, &o_centroids, &o_low, &o_step, &o_best, &o_places) ||
        !check_level(level) || !check_positive("d", d) || !check_positive("k", k))
        return NULL;
    if (s.codec < 0 || s.codec >= CODECS)
        return PyErr_Format(PyExc_ValueError, "codec is %d, expected 0 to %d", s.codec, CODECS - 1);
    s.d = (size_t)d, s.k = (size_t)k;
    s.stride = (s.d + MOST_LANES - 1) / MOST_LANES * MOST_LANES;
    s.code_size = (s.d * BITS_OF[s.codec] + 7) / 8;
    const int64_t *entries;
    if (!(s.codes = take(&all, o_codes, "codes", 'B', 0, &ncodes)) ||
        !(entries = take(&all, o_entries, "entries", 'q', 0, &nwords)) ||
        !(s.pair_starts = take(&all, o_pair_starts, "pair_starts", 'q', 0, &nstarts)) ||
        !(s.pair_queries = take(&all, o_pair_queries, "pair_queries", 'i', 0, &npairs)) ||
        !take_floats(&all, o_pair_coarse, "pair_coarse", &s.pair_coarse, &ncoarse) ||
        !(s.queries = take(&all, o_queries, "queries", 'f', 0, &nqueries)) ||
        !take_floats(&all, o_centroids, "centroids", &s.centroids, &ncentroids) ||
        !take_floats(&all, o_low, "low", &s.low, &nlow) ||
        !(s.step = take(&all, o_step, "step", 'f', 0, &nstep)) ||
        !(s.best = take(&all, o_best, "best", 'f', 1, &nbest)) ||
        !(s.places = take(&all, o_places, "places", 'q', 1, &nplaces)))
        goto done;
    const size_t nentries = nwords / 4, nq = nqueries / s.d, nlist = ncentroids / s.d;
    if (!check_product("entries", nwords, 4, nentries) ||
        !check_length("pair_starts", nstarts, nentries + 1) ||
        !check_product("queries", nqueries, nq, s.d) ||
        !check_product("centroids", ncentroids, nlist, s.d) ||
        !check_product("best", nbest, nq, s.k) || !check_length("places", nplaces, nbest) ||
        (s.pair_coarse && !check_length("pair_coarse", ncoarse, npairs)) ||
        (s.low && !check_length("low", nlow, s.stride)) ||
        !check_length("step", nstep, s.stride))
        goto done;
    s.list_nos = entries, s.row_starts = entries + nentries;
    s.sizes = entries + 2 * nentries, s.offsets = entries + 3 * nentries;
    if (check_entries(&s, nentries, ncodes, npairs, nq, nlist) && scan(&s, level, nentries))
        result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"scan", py_scan, METH_VARARGS,
     "scan(level, codec, similarity, d, k, codes, entries, pair_starts, pair_queries, pair_coarse,\n"
     "     queries, centroids, low, step, best, places)\n\n"
     "codec: 0 flat, 1 fp16, 2 sq8, 3 sq6, 4 sq4. entries: list numbers, first rows, sizes and\n"
     "byte offsets, one after another. best and places are heaps, worst first, and are updated."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.kernels._scan", "Scanning inverted lists; see _scan.c.", 0,
    methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__scan(void)
{
    return PyModuleDef_Init(&module);
}
