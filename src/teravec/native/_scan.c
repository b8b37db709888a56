/* teravec.native._scan: the k best codes of inverted lists for many queries at once.
 *
 * A list's codes are unpacked once for all queries that visit the list. Faiss's scanners unpack them
 * again for every query, which is most of their work.
 *
 * Threads divide the rows of codes (_threads.h). Each thread has its own results, and all share one
 * limit per query: once any thread has k values below v, no value above v can be in the result. Each
 * query's nearest list is scanned first, because its results set a low limit.
 */
#include "_native_common.h"
#include "_native_select.h"
#include "_codes.h"
#include "_mask.h"
#include "_shares.h"
#include "_threads.h"

/* Queries prepared at a time: with 384 dimensions they fill half of a 96 KiB first-level cache. */
enum { GROUP = 32 };
enum { MOST_LANES = 16 };
enum { PARTS_EACH = 8 }; /* for each thread: the last ones even out what the first took longer */

/* Runs of lists, or a part of one: sizes[e] codes at codes + offsets[e] are the rows from row_start of a
 * run of list list_nos[e], visited by the queries pair_queries[pair_starts[e]..pair_starts[e + 1]]. */
typedef struct {
    int codec, similarity, level;
    size_t d, stride, code_size, k, nq, nlists;
    const uint8_t *codes;
    int64_t row_start;
    const int64_t *offsets, *sizes, *list_nos, *pair_starts;
    runs_t runs;
    const int32_t *pair_queries;
    const uint8_t *pair_nearest; /* whether the list is the query's nearest */
    const float *pair_coarse; /* inner product of query and centroid; NULL without residuals */
    const float *queries, *centroids; /* centroids NULL without residuals */
    const float *low, *step;          /* of `stride` values; low NULL without residuals */
    size_t room;
    float *limits; /* (nq,), of what may be kept; threads lower them */
} scan_t;

/* A thread's working memory, and its results for each query: counts[query] values, unordered, at most
 * `room`. When `room` is full, all but the k lowest are dropped, and the k-th becomes the limit. A heap
 * would hold exactly k values, but take several times as long for each value that enters. */
typedef struct {
    float *queries, *rows; /* (GROUP, stride) and (MOST_LANES, stride) */
    float base[GROUP];
    size_t pairs[GROUP]; /* of the queries */
    uint64_t *keys; /* (room,), for leaving the lowest of a query's values */
    uint8_t *codes; /* (MOST_LANES, code_size), where rows are hidden: visible codes side by side */
    float *best;
    int64_t *places;
    int32_t *counts;
} work_t;

/* Drop all but the k lowest of a query's values. Among values equal to the k-th, those of lowest place
 * stay, so that results do not depend on the order in which lists are scanned. */
static void leave_lowest(const scan_t *s, const work_t *w, size_t query)
{
    float *best = w->best + query * s->room;
    int64_t *places = w->places + query * s->room, last = INT64_MAX;
    size_t lower = 0, equal = 0, kept = 0;
    for (size_t i = 0; i < s->room; i++)
        w->keys[i] = sort_key(best[i], i);
    select_keys(w->keys, s->room, s->k);
    const float limit = best[(uint32_t)w->keys[s->k - 1]]; /* select_keys leaves the k-th there */
    for (size_t i = 0; i < s->room; i++) {
        lower += best[i] < limit;
        equal += best[i] == limit;
    }
    if (lower + equal > s->k) {
        equal = 0;
        for (size_t i = 0; i < s->room; i++)
            if (best[i] == limit)
                w->keys[equal++] = (uint64_t)places[i];
        select_keys(w->keys, equal, s->k - lower);
        last = (int64_t)w->keys[s->k - lower - 1];
    }
    for (size_t i = 0; i < s->room; i++) { /* without branches; kept is at most i */
        const float value = best[i];
        const int64_t place = places[i];
        best[kept] = value, places[kept] = place;
        kept += (size_t)((value < limit) | ((value == limit) & (place <= last)));
    }
    w->counts[query] = (int32_t)s->k;
    lower_limit(s->limits + query, limit);
}

static void keep(const scan_t *s, const work_t *w, size_t query, float value, int64_t place)
{
    const size_t at = query * s->room + (size_t)w->counts[query];
    w->best[at] = value;
    w->places[at] = place;
    if ((size_t)++w->counts[query] == s->room)
        leave_lowest(s, w, query);
}

#define KERNELS "_scan_kernels.h"
#include "_levels.h"

/* ------------------------------------------------------------------ sharing out */

typedef struct {
    const scan_t *scan;
    turns_t turns;
    size_t parts;
    work_t *works; /* of each thread */
} shares_t;

static void scan_part(void *context, size_t part, size_t thread)
{
    const shares_t *all = context;
    const scan_t *s = all->scan;
    for (run_t run = part_of(&all->turns, part, all->parts); next_run(&all->turns, &run);)
        AT_LEVEL(s->level, scan_rows, s, all->works + thread, &run);
}

/* ------------------------------------------------------------------ functions */

static int check_lists(const scan_t *s, size_t ncodes, size_t npairs, size_t nlist, size_t nbits)
{
    for (size_t e = 0; e < s->nlists; e++) {
        const int64_t offset = s->offsets[e], size = s->sizes[e];
        size_t bytes;
        if (offset < 0 || size < 0 ||
            __builtin_mul_overflow((size_t)size, s->code_size, &bytes) || bytes > ncodes ||
            (size_t)offset > ncodes - bytes) {
            PyErr_Format(PyExc_ValueError, "entry %zu: %lld codes at byte %lld of %zu", e,
                         (long long)size, (long long)offset, ncodes);
            return 0;
        }
        if (s->list_nos[e] < 0 || (s->centroids && (size_t)s->list_nos[e] >= nlist)) {
            PyErr_Format(PyExc_ValueError, "entry %zu: list %lld is out of range", e,
                         (long long)s->list_nos[e]);
            return 0;
        }
        if (s->pair_starts[e] < 0 || s->pair_starts[e] > s->pair_starts[e + 1]) {
            PyErr_Format(PyExc_ValueError, "entry %zu: pair_starts falls", e);
            return 0;
        }
    }
    if (s->nlists && (size_t)s->pair_starts[s->nlists] > npairs) {
        PyErr_Format(PyExc_ValueError, "pair_starts ends beyond %zu pairs", npairs);
        return 0;
    }
    for (size_t pair = 0; pair < npairs; pair++)
        if (s->pair_queries[pair] < 0 || (size_t)s->pair_queries[pair] >= s->nq) {
            PyErr_Format(PyExc_ValueError, "pair %zu: query %d of %zu", pair, s->pair_queries[pair],
                         s->nq);
            return 0;
        }
    return check_runs(&s->runs, s->nlists, s->sizes, s->row_start, nbits);
}

/* Codes of residuals have both centroids and `low`; others have neither. */
static int check_residual(const scan_t *s)
{
    if (!s->low == !s->centroids)
        return 1;
    PyErr_SetString(PyExc_ValueError, "one of centroids and low is there, the other is not");
    return 0;
}

/* A thread's memory: floats of queries and rows, zero-padded after d values, then keys and codes. */
static size_t work_bytes(const scan_t *s)
{
    const size_t rows = at_most(GROUP, s->nq) + MOST_LANES;
    const size_t codes = s->runs.bits ? MOST_LANES * s->code_size : 0;
    return (4 * rows * s->stride + 8 * s->room + codes + 63) / 64 * 64;
}

static void set_work(const scan_t *s, work_t *w, char *memory)
{
    const size_t queries = at_most(GROUP, s->nq) * s->stride, rows = MOST_LANES * s->stride;
    w->queries = (float *)memory, w->rows = w->queries + queries;
    w->keys = (uint64_t *)(w->rows + rows), w->codes = (uint8_t *)(w->keys + s->room);
    if (s->d < s->stride)
        memset(memory, 0, 4 * (queries + rows));
}

/* Scan all lists, on as many threads as there is room for their results. */
static int scan(const scan_t *s, float *best, int64_t *places, int32_t *counts, size_t threads)
{
    if (!s->nlists)
        return 1;
    shares_t all = {
        .scan = s,
        .turns = {s->nlists, s->sizes, s->pair_starts, s->pair_nearest, malloc(16 * s->nlists)},
    };
    char *memory = NULL;
    if (all.turns.ends) {
        const size_t numbers = write_ends(&all.turns) * s->d;
        all.parts = numbers / PART ? at_most(numbers / PART, threads * PARTS_EACH) : 1;
        threads = at_most(threads, all.parts);
        all.works = malloc(threads * sizeof *all.works);
        memory = aligned_alloc(64, threads * work_bytes(s));
        const int ready = all.works && memory;
        for (size_t i = 0; ready && i < threads; i++) {
            work_t *w = all.works + i;
            set_work(s, w, memory + i * work_bytes(s));
            w->best = best + i * s->nq * s->room, w->places = places + i * s->nq * s->room;
            w->counts = counts + i * s->nq;
        }
        if (ready) {
            Py_BEGIN_ALLOW_THREADS;
            share(all.parts, threads, numbers < BRIEF, scan_part, &all);
            Py_END_ALLOW_THREADS;
        }
    }
    const int done = all.works && memory;
    if (!done)
        PyErr_NoMemory();
    free(memory);
    free(all.works);
    free(all.turns.ends);
    return done;
}

/* Check that the queries' results have the form in which `keep` leaves them. */
static int check_kept(const scan_t *s, const int32_t *counts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (counts[i] < 0 || (size_t)counts[i] >= s->room) {
            PyErr_Format(PyExc_ValueError, "query %zu keeps %d values, room is for %zu", i % s->nq,
                         counts[i], s->room);
            return 0;
        }
    return 1;
}

static PyObject *py_scan(PyObject *self, PyObject *args)
{
    Py_ssize_t d, k;
    long long row_start;
    PyObject *o_codes, *o_list_nos, *o_sizes, *o_offsets, *o_starts, *o_pairs, *o_nearest, *o_coarse,
        *o_queries, *o_centroids, *o_low, *o_step, *o_best, *o_places, *o_counts, *o_limits,
        *o_run_nos = NULL, *o_bits = NULL, *o_bit_starts = NULL, *result = NULL;
    buffers_t all = {.count = 0};
    size_t ncodes, nsizes, noffsets, nstarts, npairs, nnearest, ncoarse, nqueries, ncentroids, nlow,
        nstep, nbest, nplaces, ncounts, nbits;
    float *best;
    int64_t *places;
    int32_t *counts;
    scan_t s = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "iiinnLOOOOOOOOOOOOOOOO|OOO:scan", &s.level, &s.codec, &s.similarity, &d,
                          &k, &row_start, &o_codes, &o_list_nos, &o_sizes, &o_offsets, &o_starts,
                          &o_pairs, &o_nearest, &o_coarse, &o_queries, &o_centroids, &o_low, &o_step,
                          &o_best, &o_places, &o_counts, &o_limits, &o_run_nos, &o_bits,
                          &o_bit_starts) ||
        !check_level(s.level) || !check_positive("d", d) || !check_positive("k", k))
        return NULL;
    if (s.codec < 0 || s.codec >= CODECS)
        return PyErr_Format(PyExc_ValueError, "codec is %d, expected 0 to %d", s.codec, CODECS - 1);
    s.d = (size_t)d, s.k = (size_t)k, s.row_start = row_start;
    s.stride = (s.d + MOST_LANES - 1) / MOST_LANES * MOST_LANES;
    s.code_size = (s.d * BITS_OF[s.codec] + 7) / 8;
    if (!(s.codes = take(&all, o_codes, "codes", 'B', 0, &ncodes)) ||
        !(s.list_nos = take(&all, o_list_nos, "list_nos", 'q', 0, &s.nlists)) ||
        !(s.sizes = take(&all, o_sizes, "sizes", 'q', 0, &nsizes)) ||
        !(s.offsets = take(&all, o_offsets, "offsets", 'q', 0, &noffsets)) ||
        !(s.pair_starts = take(&all, o_starts, "pair_starts", 'q', 0, &nstarts)) ||
        !(s.pair_queries = take(&all, o_pairs, "pair_queries", 'i', 0, &npairs)) ||
        !(s.pair_nearest = take(&all, o_nearest, "pair_nearest", 'B', 0, &nnearest)) ||
        !take_floats(&all, o_coarse, "pair_coarse", &s.pair_coarse, &ncoarse) ||
        !(s.queries = take(&all, o_queries, "queries", 'f', 0, &nqueries)) ||
        !take_floats(&all, o_centroids, "centroids", &s.centroids, &ncentroids) ||
        !take_floats(&all, o_low, "low", &s.low, &nlow) ||
        !(s.step = take(&all, o_step, "step", 'f', 0, &nstep)) ||
        !(best = take(&all, o_best, "best", 'f', 1, &nbest)) ||
        !(places = take(&all, o_places, "places", 'q', 1, &nplaces)) ||
        !(counts = take(&all, o_counts, "counts", 'i', 1, &ncounts)) ||
        !(s.limits = take(&all, o_limits, "limits", 'f', 1, &s.nq)) ||
        !take_runs(&all, o_run_nos, o_bits, o_bit_starts, s.list_nos, s.nlists, &s.runs, &nbits))
        goto done;
    const size_t nlist = ncentroids / s.d, threads = s.nq ? ncounts / s.nq : 1;
    s.room = ncounts ? nbest / ncounts : s.k + 1;
    if (!check_length("sizes", nsizes, s.nlists) || !check_length("offsets", noffsets, s.nlists) ||
        !check_length("pair_starts", nstarts, s.nlists + 1) ||
        !check_length("pair_nearest", nnearest, npairs) ||
        !check_product("queries", nqueries, s.nq, s.d) ||
        !check_product("centroids", ncentroids, nlist, s.d) ||
        !check_product("counts", ncounts, threads, s.nq) ||
        !check_product("best", nbest, ncounts, s.room) || !check_length("places", nplaces, nbest) ||
        !check_kept(&s, counts, ncounts) ||
        (s.pair_coarse && !check_length("pair_coarse", ncoarse, npairs)) ||
        (s.low && !check_length("low", nlow, s.stride)) || !check_residual(&s) ||
        !check_length("step", nstep, s.stride))
        goto done;
    if (s.room <= s.k || !threads) {
        PyErr_Format(PyExc_ValueError, "room is for %zu values of %zu threads, k is %zu", s.room,
                     threads, s.k);
        goto done;
    }
    if (check_lists(&s, ncodes, npairs, nlist, nbits) && scan(&s, best, places, counts, threads))
        result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ results */

typedef struct {
    size_t k, nscans, nq, room;
    int similarity;
    const float *best;
    const int64_t *places;
    const int32_t *counts;
} kept_t;

typedef struct {
    float *values;
    int64_t *places;
    uint64_t *keys, *equal; /* all of nscans * room */
} gathered_t;

/* Write the places of values equal to keys[i] in ascending order, including values beyond the m
 * lowest: which of the equal values are among the m is arbitrary. Returns where the next value
 * begins. */
static size_t write_equal(const gathered_t *g, size_t n, size_t i, size_t m, int64_t *out)
{
    const float value = g->values[(uint32_t)g->keys[i]];
    size_t stop = i + 1, count = 0;
    while (stop < m && g->values[(uint32_t)g->keys[stop]] == value)
        stop++;
    if (stop == m && m < n) {
        for (size_t j = 0; j < n; j++)
            if (g->values[j] == value)
                g->equal[count++] = (uint64_t)g->places[j];
    } else {
        for (size_t j = i; j < stop; j++)
            g->equal[count++] = (uint64_t)g->places[(uint32_t)g->keys[j]];
    }
    if (count > 1)
        sort_keys(g->equal, count);
    for (size_t j = i; j < stop; j++)
        out[j] = (int64_t)g->equal[j - i];
    return stop;
}

static void lowest(const kept_t *kept, const gathered_t *g, size_t query, float *out,
                   int64_t *out_places)
{
    const float sign = kept->similarity ? -1 : 1;
    size_t n = 0;
    for (size_t scan = 0; scan < kept->nscans; scan++) {
        const size_t row = scan * kept->nq + query, count = (size_t)kept->counts[row];
        memcpy(g->values + n, kept->best + row * kept->room, 4 * count);
        memcpy(g->places + n, kept->places + row * kept->room, 8 * count);
        n += count;
    }
    const size_t m = n < kept->k ? n : kept->k;
    for (size_t i = 0; i < n; i++)
        g->keys[i] = sort_key(g->values[i], i);
    if (m < n)
        select_keys(g->keys, n, m);
    sort_keys(g->keys, m);
    for (size_t i = 0; i < m; i++)
        out[i] = sign * g->values[(uint32_t)g->keys[i]];
    for (size_t i = 0; i < m;)
        i = write_equal(g, n, i, m, out_places);
    for (size_t i = m; i < kept->k; i++) {
        out[i] = sign * INFINITY;
        out_places[i] = -1;
    }
}

static int all_lowest(const kept_t *kept, float *out, int64_t *out_places)
{
    const size_t most = kept->nscans * kept->room + 1;
    gathered_t g = {malloc(4 * most), malloc(8 * most), malloc(8 * most), malloc(8 * most)};
    const int ready = g.values && g.places && g.keys && g.equal;
    if (ready) {
        Py_BEGIN_ALLOW_THREADS;
        for (size_t query = 0; query < kept->nq; query++)
            lowest(kept, &g, query, out + query * kept->k, out_places + query * kept->k);
        Py_END_ALLOW_THREADS;
    } else {
        PyErr_NoMemory();
    }
    free(g.values);
    free(g.places);
    free(g.keys);
    free(g.equal);
    return ready;
}

static PyObject *py_lowest(PyObject *self, PyObject *args)
{
    Py_ssize_t k;
    PyObject *o_best, *o_places, *o_counts, *o_out, *o_out_places, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nbest, nplaces, ncounts, nout, nout_places;
    kept_t kept = {0};
    float *out;
    int64_t *out_places;
    (void)self;
    if (!PyArg_ParseTuple(args, "niOOOOO:lowest", &k, &kept.similarity, &o_best, &o_places,
                          &o_counts, &o_out, &o_out_places) ||
        !check_positive("k", k))
        return NULL;
    kept.k = (size_t)k;
    if (!(kept.best = take(&all, o_best, "best", 'f', 0, &nbest)) ||
        !(kept.places = take(&all, o_places, "places", 'q', 0, &nplaces)) ||
        !(kept.counts = take(&all, o_counts, "counts", 'i', 0, &ncounts)) ||
        !(out = take(&all, o_out, "out_distances", 'f', 1, &nout)) ||
        !(out_places = take(&all, o_out_places, "out_places", 'q', 1, &nout_places)))
        goto done;
    kept.nq = nout / kept.k;
    kept.nscans = kept.nq ? ncounts / kept.nq : 0;
    kept.room = ncounts ? nbest / ncounts : 0;
    if (!check_product("out_distances", nout, kept.nq, kept.k) ||
        !check_product("counts", ncounts, kept.nscans, kept.nq) ||
        !check_product("best", nbest, ncounts, kept.room) ||
        !check_length("places", nplaces, nbest) || !check_length("out_places", nout_places, nout))
        goto done;
    for (size_t row = 0; row < ncounts; row++)
        if (kept.counts[row] < 0 || (size_t)kept.counts[row] > kept.room) {
            PyErr_Format(PyExc_ValueError, "%d values kept, room is for %zu", kept.counts[row],
                         kept.room);
            goto done;
        }
    if (all_lowest(&kept, out, out_places))
        result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"scan", py_scan, METH_VARARGS,
     "scan(level, codec, similarity, d, k, row_start, codes, list_nos, sizes, offsets, pair_starts,\n"
     "     pair_queries, pair_nearest, pair_coarse, queries, centroids, low, step, best, places,\n"
     "     counts, limits, run_nos or None, bits or None, starts or None)\n\n"
     "codec: 0 flat, 1 fp16, 2 sq8, 3 sq6, 4 sq4. best and places (threads, nq, more than k) are\n"
     "what threads keep of queries, counts (threads, nq) how many, limits (nq,) what a distance\n"
     "must not be above; all four are updated. The last three, see _mask.h, may be left out."},
    {"lowest", py_lowest, METH_VARARGS,
     "lowest(k, similarity, best, places, counts, out_distances, out_places)\n\n"
     "The k lowest of each query, ascending by value and place, of what several scans kept: best\n"
     "and places (scans, nq, room), counts (scans, nq). Negated for similarities; where fewer were\n"
     "kept, infinite and -1."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, import_threads}, {0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._scan", "Scanning inverted lists; see _scan.c.", 0,
    methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__scan(void)
{
    return PyModuleDef_Init(&module);
}
