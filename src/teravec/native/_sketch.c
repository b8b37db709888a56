/* teravec.native._sketch: scanning first codes (sketches) of residuals.
 *
 * A code of `bits` (1 or 2) a dimension is `bits` planes of ceil(d / 8) bytes, the lowest plane
 * first, dimension i in bit i % 8 of byte i / 8, unused bits zero; then two factors of 16 bits,
 * each the upper half of a positive float32's 31 bits: f = |r|^2 / <y, r> and n = |r|^2, where
 * r = x - c and y_i = u_i - (2^bits - 1) / 2, u_i the number in the planes. So <r, q> is about
 * f <y, q>, see sketch.py.
 *
 * A query is rounded to 8 bits a dimension, so <y, q> is a sum of integers, the same in any order. A
 * block of codes is laid out by words, code beside code, once for all queries that visit the list.
 * Every instruction then works on as many codes as a register has lanes. An estimate depends on its
 * query, list and code alone. A query's candidates are the `capacity` lowest by (estimate, place),
 * which depend neither on the order of scanning nor on threads. Buffers are checked against each
 * other, and the interpreter lock is released.
 */
#include "_native_common.h"
#include "_mask.h"
#include "_shares.h"
#include "_threads.h"

enum { BLOCK = 256, FACTORS = 4, WORD = 32, VIEWS = 16 };
enum { BITS_FASTER = 4 }; /* than comparing as many numbers of finer codes */

typedef struct {
    size_t d, bits, plane_bytes, code_size, words; /* words of WORD dimensions a plane */
    int level, vnni, similarity; /* vnni: products of bytes are summed by one instruction */
    float epsilon; /* error bound, in standard deviations of the estimator's error */
} sketch_t;

#include "_sketch_view.h"

/* Some codes of a list, side by side. */
typedef struct {
    uint32_t *words; /* bits * words rows of BLOCK */
    float f[BLOCK], n[BLOCK];
    uint32_t rows[BLOCK]; /* of the codes in memory */
    size_t count;
} block_t;

#include "_sketch_kept.h"

/* ------------------------------------------------------------------ estimates of a block */

static inline float estimate_of(const view_t *v, float f, float n, int32_t sum)
{
    return v->base + n * v->square - f * v->step * (float)(2 * sum - v->offset);
}

static inline int32_t looked_up(const int32_t *table, uint32_t word)
{
    return table[word & 255] + table[256 + (word >> 8 & 255)] + table[512 + (word >> 16 & 255)] +
           table[768 + (word >> 24)];
}

static void estimates_base(const sketch_t *s, const view_t *v, size_t nv, const block_t *b,
                           float *out)
{
    for (size_t j = 0; j < nv; j++, out += BLOCK)
        for (size_t i = 0; i < b->count; i++) {
            int32_t sum = 0;
            for (size_t w = 0; w < s->words; w++) {
                const int32_t *table = v[j].table + w * 4 * 256;
                sum += looked_up(table, b->words[w * BLOCK + i]);
                if (s->bits == 2)
                    sum += 2 * looked_up(table, b->words[(s->words + w) * BLOCK + i]);
            }
            out[i] = estimate_of(v + j, b->f[i], b->n[i], sum);
        }
}

#if NATIVE_X86
/* The sums of two neighbouring products, of at most 3 * 127, over eight steps fit 16 bits. */
#define DOT(sums, u, q) OP(add_epi16)(sums, OP(maddubs_epi16)(u, q))
#define WIDE(sums) OP(madd_epi16)(sums, OP(set1_epi16)(1))
#define LANES 8
#define AT_ONCE 2
#define NAME(x) x##_avx2
#define REG __m256i
#define OP(x) _mm256_##x
#define SI(x) _mm256_##x##_si256
#define FN AVX2_TARGET static
#define INLINE AVX2_TARGET static inline __attribute__((always_inline))
#include "_sketch_kernels.h"

#define DOT(sums, u, q) OP(add_epi16)(sums, OP(maddubs_epi16)(u, q))
#define WIDE(sums) OP(madd_epi16)(sums, OP(set1_epi16)(1))
#define LANES 16
#define AT_ONCE 4
#define NAME(x) x##_avx512
#define REG __m512i
#define OP(x) _mm512_##x
#define SI(x) _mm512_##x##_si512
#define FN AVX512_TARGET static
#define INLINE AVX512_TARGET static inline __attribute__((always_inline))
#include "_sketch_kernels.h"

#define VNNI_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")))
#define DOT(sums, u, q) OP(dpbusd_epi32)(sums, u, q)
#define WIDE(sums) sums
#define LANES 16
#define AT_ONCE 8
#define NAME(x) x##_vnni
#define REG __m512i
#define OP(x) _mm512_##x
#define SI(x) _mm512_##x##_si512
#define FN VNNI_TARGET static
#define INLINE VNNI_TARGET static inline __attribute__((always_inline))
#include "_sketch_kernels.h"
#endif

/* Estimates of a block's codes for nv views, BLOCK apart in `out`. */
static void block_estimates(const sketch_t *s, const view_t *v, size_t nv, const block_t *b,
                            float *out)
{
#if NATIVE_X86
    if (s->vnni) {
        estimates_vnni(s, v, nv, b, out);
        return;
    }
#endif
    AT_LEVEL(s->level, estimates, s, v, nv, b, out);
}

/* ------------------------------------------------------------------ estimates */

/* Lay out n codes: those at `rows`, or the first ones, where `rows` is NULL. */
static inline __attribute__((always_inline)) void lay_out(const sketch_t *s, block_t *b,
                                                          const uint8_t *codes,
                                                          const uint32_t *rows, size_t n)
{
    const size_t size = s->code_size;
    for (size_t p = 0; p < s->bits; p++)
        for (size_t w = 0; w < s->words; w++) {
            /* The last word may reach behind its plane, where the query's values are zero. */
            const uint8_t *at = codes + p * s->plane_bytes + 4 * w;
            uint32_t *row = b->words + (p * s->words + w) * BLOCK;
            for (size_t i = 0; i < n; i++)
                memcpy(row + i, at + (rows ? rows[i] : i) * size, 4);
        }
    const uint8_t *factors = codes + s->bits * s->plane_bytes;
    for (size_t i = 0; i < n; i++) {
        uint16_t halves[2];
        memcpy(halves, factors + (rows ? rows[i] : i) * size, 4);
        const uint32_t f = (uint32_t)halves[0] << 15, square = (uint32_t)halves[1] << 15;
        memcpy(b->f + i, &f, 4);
        memcpy(b->n + i, &square, 4);
    }
}

/* Fill a block with the codes of rows from `row` on. */
static void make_block(const sketch_t *s, block_t *b, const uint8_t *codes, size_t row, size_t n)
{
    b->count = n;
    for (size_t i = 0; i < n; i++)
        b->rows[i] = (uint32_t)(row + i);
    lay_out(s, b, codes + row * s->code_size, NULL, n);
}

/* Fill a block with the codes of the next rows that `visible` has; see next_rows. */
static void make_visible_block(const sketch_t *s, block_t *b, const uint8_t *codes,
                               const uint8_t *visible, size_t first, size_t *row, size_t stop)
{
    b->count = next_rows(visible, first, row, stop, BLOCK, b->rows);
    lay_out(s, b, codes, b->rows, b->count);
}

static inline float error_bound(const sketch_t *s, const view_t *v, const block_t *b, size_t i)
{
    float square = 0.25f * (float)s->d; /* |y|^2: every y_i is +-1/2, or +-3/2 */
    if (s->bits == 2) {
        size_t small = 0;
        for (size_t w = 0; w < s->words; w++) {
            const size_t left = s->d - w * WORD;
            const uint32_t mask = left < WORD ? (1u << left) - 1 : ~0u;
            const uint32_t *row = b->words + w * BLOCK + i;
            small += (size_t)__builtin_popcount((row[0] ^ row[s->words * BLOCK]) & mask);
        }
        square += 2 * (float)(s->d - small);
    }
    const float missed = b->f[i] * b->f[i] * square - b->n[i];
    return v->spread * sqrtf(missed > 0 ? missed : 0);
}

/* ------------------------------------------------------------------ scanning a list */

/* A mask of the 16 estimates that are within a limit, the first in the lowest bit. */
static inline unsigned within_bits(const float *estimates, float limit)
{
    unsigned bits = 0;
#if NATIVE_X86
    for (int i = 0; i < 16; i += 4)
        bits |= (unsigned)_mm_movemask_ps(
                    _mm_cmple_ps(_mm_loadu_ps(estimates + i), _mm_set1_ps(limit)))
                << i;
#else
    for (int i = 0; i < 16; i++)
        bits |= (unsigned)(estimates[i] <= limit) << i;
#endif
    return bits;
}

/* Keep a block's estimates that are low enough; row 0 has `place`. */
static void keep_block(const sketch_t *s, const view_t *v, const block_t *b,
                       const float *estimates, int64_t place, kept_t *kept)
{
    for (size_t start = 0; start < b->count; start += 16) {
        unsigned bits = within_bits(estimates + start, kept->limit);
        if (b->count - start < 16)
            bits &= (1u << (b->count - start)) - 1;
        for (; bits; bits &= bits - 1) {
            const size_t i = start + (size_t)__builtin_ctz(bits);
            if (estimates[i] <= kept->limit) /* which may have fallen meanwhile */
                keep(kept, estimates[i], error_bound(s, v, b, i), place + b->rows[i]);
        }
    }
}

/* Working memory of a scan: views, a block, and the block's estimates for each view. */
typedef struct {
    view_t views[VIEWS];
    block_t block;
    float *estimates, *values; /* of the views; of one view, see make_view */
    uint64_t *keys; /* to select from what is kept for one query */
    void *memory;
} scratch_t;

static int make_scratch(const sketch_t *s, scratch_t *x, size_t capacity)
{
    const size_t q = s->words * 8, table = s->level ? 0 : s->words * 4 * 256;
    const size_t words = s->bits * s->words * BLOCK;
    const size_t bytes = 4 * (VIEWS * (q + table + BLOCK) + words + s->words * WORD) + 16 * capacity;
    int32_t *at = x->memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!at)
        return 0;
    memset(at, 0, bytes);
    x->block.words = (uint32_t *)at, at += words;
    x->estimates = (float *)at, at += VIEWS * BLOCK;
    x->values = (float *)at, at += s->words * WORD;
    for (size_t i = 0; i < VIEWS; i++, at += q + table)
        x->views[i].q = at, x->views[i].table = at + q;
    x->keys = (uint64_t *)at;
    memset(x->block.f, 0, sizeof x->block.f);
    memset(x->block.n, 0, sizeof x->block.n);
    return 1;
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
#if NATIVE_X86
    s->vnni = level == 2 && __builtin_cpu_supports("avx512vnni");
#else
    s->vnni = 0;
#endif
    s->d = (size_t)d, s->bits = (size_t)bits;
    s->plane_bytes = (s->d + 7) / 8;
    s->words = (s->d + WORD - 1) / WORD;
    s->code_size = s->bits * s->plane_bytes + FACTORS;
    return 1;
}

static void estimates(const sketch_t *s, scratch_t *x, const uint8_t *codes, size_t n,
                      float *estimated, float *errors)
{
    for (size_t start = 0; start < n; start += BLOCK) {
        make_block(s, &x->block, codes, start, n - start < BLOCK ? n - start : BLOCK);
        block_estimates(s, x->views, 1, &x->block, x->estimates);
        for (size_t i = 0; i < x->block.count; i++) {
            estimated[start + i] = x->estimates[i];
            errors[start + i] = error_bound(s, x->views, &x->block, i);
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
    scratch_t x = {0};
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
    if (!make_scratch(&s, &x, 0)) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    make_view(&s, x.views, x.values, query, similarity ? NULL : centroid, coarse);
    estimates(&s, &x, codes, n, out, error);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    free(x.memory);
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ scanning lists */

#include "_sketch_scan.h"

static PyObject *py_scan(PyObject *self, PyObject *args)
{
    int level, bits, similarity;
    Py_ssize_t d, capacity, threads;
    long long row_start;
    float epsilon;
    PyObject *o_queries, *o_centroids, *o_starts, *o_pairs, *o_nearest, *o_coarse, *o_list_nos,
        *o_sizes, *o_offsets, *o_codes, *o_kept, *o_counts, *o_limits, *o_run_nos = NULL,
        *o_bits = NULL, *o_bit_starts = NULL, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nqueries, ncentroids, nstarts, npair, nsizes, noffsets, nkept, nlimits, nbits, row;
    sketch_t s;
    (void)self;
    if (!PyArg_ParseTuple(args, "inipfnnLOOOOOOOOOOOOO|OOO:scan", &level, &d, &bits, &similarity,
                          &epsilon, &capacity, &threads, &row_start, &o_queries, &o_centroids,
                          &o_starts, &o_pairs, &o_nearest, &o_coarse, &o_list_nos, &o_sizes,
                          &o_offsets, &o_codes, &o_kept, &o_counts, &o_limits, &o_run_nos, &o_bits,
                          &o_bit_starts) ||
        !set_sketch(&s, level, d, bits, similarity, epsilon) ||
        !check_positive("capacity", capacity) || !check_positive("threads", threads))
        return NULL;
    scan_t w = {.capacity = (size_t)capacity, .row_start = row_start};
    if (!(w.queries = take(&all, o_queries, "queries", 'f', 0, &nqueries)) ||
        !(w.centroids = take(&all, o_centroids, "centroids", 'f', 0, &ncentroids)) ||
        !(w.pair_starts = take(&all, o_starts, "pair_starts", 'q', 0, &nstarts)) ||
        !(w.pair_queries = take(&all, o_pairs, "pair_queries", 'i', 0, &w.npairs)) ||
        !(w.pair_nearest = take(&all, o_nearest, "pair_nearest", 'B', 0, &npair)) ||
        !check_length("pair_nearest", npair, w.npairs) ||
        !(w.coarse = take(&all, o_coarse, "coarse", 'f', 0, &npair)) ||
        !check_length("coarse", npair, w.npairs) ||
        !(w.list_nos = take(&all, o_list_nos, "list_nos", 'q', 0, &w.nlists)) ||
        !(w.sizes = take(&all, o_sizes, "sizes", 'q', 0, &nsizes)) ||
        !(w.offsets = take(&all, o_offsets, "offsets", 'q', 0, &noffsets)) ||
        !(w.codes = take(&all, o_codes, "codes", 'B', 0, &w.bytes)) ||
        !(w.kept = take(&all, o_kept, "candidates", 'B', 1, &nkept)) ||
        !(w.counts = take(&all, o_counts, "counts", 'q', 1, &w.nq)) ||
        !(w.limits = take(&all, o_limits, "limits", 'f', 1, &nlimits)) ||
        !check_length("limits", nlimits, w.nq) ||
        !take_runs(&all, o_run_nos, o_bits, o_bit_starts, w.list_nos, w.nlists, &w.runs, &nbits))
        goto done;
    w.nlist = ncentroids / s.d;
    if (!check_product("queries", nqueries, w.nq, s.d) ||
        !check_product("centroids", ncentroids, w.nlist, s.d) ||
        !check_length("pair_starts", nstarts, w.nlists + 1) ||
        !check_length("sizes", nsizes, w.nlists) || !check_length("offsets", noffsets, w.nlists))
        goto done;
    if (__builtin_mul_overflow(w.capacity, 2 * sizeof(candidate_t), &row) ||
        (uintptr_t)w.kept % _Alignof(candidate_t)) {
        PyErr_SetString(PyExc_ValueError, "candidates are out of range, or not aligned");
        goto done;
    }
    if (!check_product("candidates", nkept, w.nq, row))
        goto done;
    if (!check_scan(&s, &w)) {
        PyErr_SetString(PyExc_ValueError, "a pair, list or count is out of range");
        goto done;
    }
    if (check_runs(&w.runs, w.nlists, w.sizes, row_start, nbits) && scan(&s, &w, (size_t)threads))
        result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"estimates", py_estimates, METH_VARARGS, "Estimate and error bound of each code of a list."},
    {"scan", py_scan, METH_VARARGS,
     "Keep the lowest estimates of each query over pairs. The last three arguments, see _mask.h, may be\n"
     "left out."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, import_threads}, {0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._sketch", "Scanning first codes; see _sketch.c.", 0,
    methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__sketch(void)
{
    return PyModuleDef_Init(&module);
}
