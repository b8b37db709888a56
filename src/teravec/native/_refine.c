/* teravec.native._refine: the second of two stages. It chooses candidates, compares queries with their
 * finer codes in place, and selects the best of each query.
 */
#include "_native_common.h"
#include "_native_select.h"
#include "_codes.h"
#include "_candidate.h"

enum { AHEAD = 8 }; /* rows that are fetched while others are compared */

/* n pairs of a query and a row: the finer code of a vector and its id (int64). */
typedef struct {
    int codec, similarity;
    size_t d, code_size, row_size, n;
    const float *queries;
    const int64_t *owners, *places; /* row of `queries`; place of the vector */
    const float *centroids;         /* NULL without residuals */
    const float *low, *step;        /* low NULL without residuals */
    const uint8_t *rows;
    const int64_t *begins; /* byte of `rows` at which the row begins; -1: leave this pair out */
    float *distances;
    int64_t *ids;
} compare_t;

#define KERNELS "_refine_kernels.h"
#include "_levels.h"

/* ------------------------------------------------------------------ comparing */

static int check_pairs(const compare_t *c, size_t nq, size_t nlist, size_t nbytes)
{
    for (size_t i = 0; i < c->n; i++) {
        const int64_t list_no = c->places[i] >> PLACE_BITS, begin = c->begins[i];
        if (c->owners[i] < 0 || (size_t)c->owners[i] >= nq || list_no < 0 ||
            (c->centroids && (size_t)list_no >= nlist) || begin < -1 ||
            (begin >= 0 && (nbytes < c->row_size || (size_t)begin > nbytes - c->row_size))) {
            PyErr_Format(PyExc_ValueError,
                         "pair %zu: query %lld, list %lld or byte %lld is out of range", i,
                         (long long)c->owners[i], (long long)list_no, (long long)begin);
            return 0;
        }
    }
    return 1;
}

static PyObject *py_compare(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t d;
    PyObject *o_queries, *o_owners, *o_places, *o_centroids, *o_low, *o_step, *o_rows, *o_begins,
        *o_distances, *o_ids, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nqueries, nplaces, ncentroids, nlow, nstep, nbytes, nbegins, ndistances, nids;
    compare_t c = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "iiinOOOOOOOOOO:compare", &level, &c.codec, &c.similarity, &d,
                          &o_queries, &o_owners, &o_places, &o_centroids, &o_low, &o_step, &o_rows,
                          &o_begins, &o_distances, &o_ids) ||
        !check_level(level) || !check_positive("d", d))
        return NULL;
    if (c.codec < 0 || c.codec >= CODECS)
        return PyErr_Format(PyExc_ValueError, "codec is %d, expected 0 to %d", c.codec, CODECS - 1);
    c.d = (size_t)d;
    c.code_size = (c.d * BITS_OF[c.codec] + 7) / 8;
    c.row_size = c.code_size + sizeof *c.ids;
    const int residual = c.codec != CODEC_FLAT && c.codec != CODEC_FP16;
    if (!(c.queries = take(&all, o_queries, "queries", 'f', 0, &nqueries)) ||
        !(c.owners = take(&all, o_owners, "owners", 'q', 0, &c.n)) ||
        !(c.places = take(&all, o_places, "places", 'q', 0, &nplaces)) ||
        !take_floats(&all, o_centroids, "centroids", &c.centroids, &ncentroids) ||
        !take_floats(&all, o_low, "low", &c.low, &nlow) ||
        !(c.step = take(&all, o_step, "step", 'f', 0, &nstep)) ||
        !(c.rows = take(&all, o_rows, "rows", 'B', 0, &nbytes)) ||
        !(c.begins = take(&all, o_begins, "begins", 'q', 0, &nbegins)) ||
        !(c.distances = take(&all, o_distances, "distances", 'f', 1, &ndistances)) ||
        !(c.ids = take(&all, o_ids, "ids", 'q', 1, &nids)))
        goto done;
    const size_t nq = nqueries / c.d, nlist = ncentroids / c.d;
    if (!check_product("queries", nqueries, nq, c.d) ||
        !check_product("centroids", ncentroids, nlist, c.d) ||
        !check_length("places", nplaces, c.n) || !check_length("begins", nbegins, c.n) ||
        !check_length("distances", ndistances, c.n) || !check_length("ids", nids, c.n))
        goto done;
    if ((c.low != NULL) != residual || (c.centroids != NULL) != residual || nstep < c.d ||
        (residual && nlow < c.d)) {
        PyErr_SetString(PyExc_ValueError, "centroids, low or step are not as the codec expected");
        goto done;
    }
    if (!check_pairs(&c, nq, nlist, nbytes))
        goto done;
    Py_BEGIN_ALLOW_THREADS;
    AT_LEVEL(level, compare, &c);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ choosing */

/* Choose candidates of one query whose lower bound is at most the k-th smallest upper bound; all if
 * there are at most k. Bounds are `slack` errors away from the estimate. */
static size_t choose(const candidate_t *items, size_t n, size_t k, float slack, uint64_t *keys,
                     int64_t *places)
{
    float limit = INFINITY;
    size_t chosen = 0;
    if (n > k) {
        for (size_t i = 0; i < n; i++)
            keys[i] = sort_key(items[i].estimate + slack * items[i].error, i);
        select_keys(keys, n, k);
        limit = key_value(keys[k - 1]);
    }
    for (size_t i = 0; i < n; i++) { /* without branches */
        places[chosen] = items[i].place;
        chosen += n <= k || items[i].estimate - slack * items[i].error <= limit;
    }
    return chosen;
}

static PyObject *py_choose(PyObject *self, PyObject *args)
{
    Py_ssize_t k, capacity;
    float slack;
    PyObject *o_room, *o_counts, *o_owners, *o_places, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nbytes, nq, nowners, nplaces, row, chosen = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "nnfOOOO:choose", &k, &capacity, &slack, &o_room, &o_counts,
                          &o_owners, &o_places) ||
        !check_positive("k", k) || !check_positive("capacity", capacity))
        return NULL;
    const uint8_t *room;
    const int64_t *counts;
    int64_t *owners, *places;
    uint64_t *keys = NULL;
    if (!(room = take(&all, o_room, "room", 'B', 0, &nbytes)) ||
        !(counts = take(&all, o_counts, "counts", 'q', 0, &nq)) ||
        !(owners = take(&all, o_owners, "owners", 'q', 1, &nowners)) ||
        !(places = take(&all, o_places, "places", 'q', 1, &nplaces)))
        goto done;
    row = 2 * (size_t)capacity * sizeof(candidate_t);
    if (!check_product("room", nbytes, nq, row) || !check_length("places", nplaces, nowners))
        goto done;
    size_t total = 0;
    for (size_t q = 0; q < nq; q++) {
        if (counts[q] < 0 || counts[q] > capacity) {
            PyErr_Format(PyExc_ValueError, "query %zu has %lld candidates, 0 to %zd expected", q,
                         (long long)counts[q], capacity);
            goto done;
        }
        total += (size_t)counts[q];
    }
    /* Room for one more: a candidate that is not chosen is written too, then overwritten. */
    if (nowners <= total || (uintptr_t)room % _Alignof(candidate_t)) {
        PyErr_Format(PyExc_ValueError, "places are %zu, more than %zu expected", nowners, total);
        goto done;
    }
    if (!(keys = malloc(8 * (size_t)capacity))) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    for (size_t q = 0; q < nq; q++) {
        const size_t n = choose((const candidate_t *)(room + q * row), (size_t)counts[q], (size_t)k,
                                slack, keys, places + chosen);
        for (size_t i = 0; i < n; i++)
            owners[chosen + i] = (int64_t)q;
        chosen += n;
    }
    Py_END_ALLOW_THREADS;
    result = PyLong_FromSize_t(chosen);
done:
    free(keys);
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ the best */

/* Whether the first of two results comes after the other: by cost, then by id. */
static inline int after(float cost, int64_t id, float other, int64_t other_id)
{
    return cost > other || (cost == other && id > other_id);
}

/* Put a result into a heap of n whose place `at` is free; the worst result is on top. */
static void sink(float *costs, int64_t *ids, size_t n, size_t at, float cost, int64_t id)
{
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && after(costs[child + 1], ids[child + 1], costs[child], ids[child]))
            child++;
        if (!after(costs[child], ids[child], cost, id))
            break;
        costs[at] = costs[child], ids[at] = ids[child];
    }
    costs[at] = cost, ids[at] = id;
}

static void rise(float *costs, int64_t *ids, size_t at, float cost, int64_t id)
{
    for (size_t above; at; at = above) {
        above = (at - 1) / 2;
        if (!after(cost, id, costs[above], ids[above]))
            break;
        costs[at] = costs[above], ids[at] = ids[above];
    }
    costs[at] = cost, ids[at] = id;
}

typedef struct {
    size_t n, nq, k;
    float sign; /* costs are sign times distance: lower is better */
    const int64_t *owners;
    const float *distances;
    const int64_t *ids;
    float *best; /* (nq, k) */
    int64_t *best_ids;
    size_t *counts; /* (nq,), 0 */
} best_t;

static void find_best(const best_t *b)
{
    for (size_t i = 0; i < b->n; i++) {
        const size_t q = (size_t)b->owners[i];
        float *costs = b->best + q * b->k;
        int64_t *ids = b->best_ids + q * b->k;
        const float cost = b->sign * b->distances[i];
        if (b->counts[q] < b->k)
            rise(costs, ids, b->counts[q]++, cost, b->ids[i]);
        else if (after(costs[0], ids[0], cost, b->ids[i]))
            sink(costs, ids, b->k, 0, cost, b->ids[i]);
    }
    for (size_t q = 0; q < b->nq; q++) {
        float *costs = b->best + q * b->k;
        int64_t *ids = b->best_ids + q * b->k;
        for (size_t n = b->counts[q]; n > 1; n--) { /* the last of the heap goes behind it */
            const float cost = costs[n - 1];
            const int64_t id = ids[n - 1];
            costs[n - 1] = costs[0], ids[n - 1] = ids[0];
            sink(costs, ids, n - 1, 0, cost, id);
        }
        for (size_t i = 0; i < b->k; i++) {
            if (i >= b->counts[q])
                costs[i] = INFINITY, ids[i] = -1;
            costs[i] *= b->sign;
        }
    }
}

static PyObject *py_best(PyObject *self, PyObject *args)
{
    int similarity;
    Py_ssize_t k;
    PyObject *o_owners, *o_distances, *o_ids, *o_best, *o_best_ids, *result = NULL;
    buffers_t all = {.count = 0};
    size_t ndistances, nids, nbest, nbest_ids;
    best_t b = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "inOOOOO:best", &similarity, &k, &o_owners, &o_distances, &o_ids,
                          &o_best, &o_best_ids) ||
        !check_positive("k", k))
        return NULL;
    b.k = (size_t)k, b.sign = similarity ? -1.0f : 1.0f;
    if (!(b.owners = take(&all, o_owners, "owners", 'q', 0, &b.n)) ||
        !(b.distances = take(&all, o_distances, "distances", 'f', 0, &ndistances)) ||
        !(b.ids = take(&all, o_ids, "ids", 'q', 0, &nids)) ||
        !(b.best = take(&all, o_best, "best", 'f', 1, &nbest)) ||
        !(b.best_ids = take(&all, o_best_ids, "best_ids", 'q', 1, &nbest_ids)))
        goto done;
    b.nq = nbest / b.k;
    if (!check_length("distances", ndistances, b.n) || !check_length("ids", nids, b.n) ||
        !check_product("best", nbest, b.nq, b.k) || !check_length("best_ids", nbest_ids, nbest))
        goto done;
    for (size_t i = 0; i < b.n; i++)
        if (b.owners[i] < 0 || (size_t)b.owners[i] >= b.nq) {
            PyErr_Format(PyExc_ValueError, "result %zu: query %lld of %zu expected", i,
                         (long long)b.owners[i], b.nq);
            goto done;
        }
    if (!(b.counts = calloc(b.nq + 1, sizeof *b.counts))) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    find_best(&b);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    free(b.counts);
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"compare", py_compare, METH_VARARGS, "Distances of queries to rows, and the rows' ids."},
    {"choose", py_choose, METH_VARARGS, "Candidates that may be among the k nearest; how many."},
    {"best", py_best, METH_VARARGS, "The k best results of each query, best first."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._refine", "The second of two stages; see _refine.c.", 0,
    methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__refine(void)
{
    return PyModuleDef_Init(&module);
}
