/* teravec.native._waves: which lists a search under a filter visits next; see search/filtered.py.
 *
 * A lone query makes this decision for some thousand ranked lists, several times: in NumPy that took
 * twenty times as long as its scan. waves.py has the same arithmetic in NumPy. Every operation here is
 * one of IEEE 754 without contraction, and sums go in the same order, so both decide alike.
 */
#include "_native_common.h"

enum { BISECTIONS = 8, HALVINGS = 3 }; /* waves.py has these too */

/* What is the same for all queries of a call. */
typedef struct {
    size_t nq, n, nlist, width, nbands;
    double k, most_missing, energy, step, offset, total;
    const int64_t *list_nos, *counts, *sizes;
    const int32_t *bands; /* of the columns */
    const float *distances;
    const double *shares, *lengths; /* lengths NULL with l2 */
} asked_t;

/* A query's ranked lists that hold a passing row: their columns, and a list's share at threshold t is
 * shares[clip(p - t * b)]. */
typedef struct {
    size_t m;
    int any; /* whether a list was ranked */
    int32_t *columns, *bands;
    double *p, *b, *counts, *sizes, *low, *high, *middle;
    double far, near; /* distances of the farthest and the nearest ranked list */
    double behind, last_p, last_b; /* passing rows of other lists, and the last ranked list */
    int32_t last_band;
} ranked_t;

static void place(const asked_t *a, double far, double length, double *p, double *b)
{
    if (a->lengths) {
        *b = -1 / (length * a->step);
        *p = far * *b - a->offset;
    } else {
        *b = 1 / (2 * sqrt((far > 1e-30 ? far : 1e-30) * a->energy) * a->step);
        *p = (far + a->energy) * *b - a->offset;
    }
}

static double share_at(const asked_t *a, double p, double b, int32_t band, double t)
{
    const double most = (double)(a->width - 1), z = p - t * b;
    const double at = z > 0 ? (z < most ? z : most) : 0; /* not a number: 0 */
    return a->shares[(size_t)band * a->width + (size_t)(at + 0.5)];
}

static void rank(const asked_t *a, size_t query, ranked_t *r)
{
    const int64_t *list_nos = a->list_nos + query * a->n;
    const float *distances = a->distances + query * a->n;
    const double length = a->lengths ? a->lengths[query] : 1;
    r->any = 0, r->m = 0, r->behind = a->total, r->far = r->near = 0;
    r->last_p = r->last_b = 0, r->last_band = 0;
    for (size_t i = 0; i < a->n; i++) {
        if (list_nos[i] < 0)
            continue;
        const double far = distances[i], count = (double)a->counts[list_nos[i]];
        r->far = r->any && r->far > far ? r->far : far;
        r->near = r->any && r->near < far ? r->near : far;
        r->any = 1;
        if (a->shares) {
            place(a, far, length, &r->last_p, &r->last_b);
            r->last_band = a->bands[i];
        }
        if (count == 0)
            continue;
        r->columns[r->m] = (int32_t)i, r->bands[r->m] = r->last_band;
        r->p[r->m] = r->last_p, r->b[r->m] = r->last_b, r->counts[r->m] = count;
        r->sizes[r->m++] = (double)a->sizes[list_nos[i]];
        r->behind -= count;
    }
}

static int64_t column_of(const ranked_t *r, size_t lists)
{
    lists = lists < r->m ? lists : r->m;
    return lists ? r->columns[lists - 1] + 1 : 0;
}

/* ------------------------------------------------------------------ the first wave */

static double expected_rows(const asked_t *a, const ranked_t *r, double t)
{
    double rows = 0;
    for (size_t i = 0; i < r->m; i++) {
        r->low[i] = r->counts[i] * share_at(a, r->p[i], r->b[i], r->bands[i], t);
        rows += r->low[i];
    }
    return rows;
}

/* Where k passing rows are expected to be nearer, by bisection. */
static double first_threshold(const asked_t *a, size_t query, const ranked_t *r)
{
    double low, high;
    if (a->lengths) {
        const double reach = (fabs(a->offset) + (double)a->width) * a->step * a->lengths[query];
        low = r->far + reach, high = r->near - reach;
    } else {
        low = 0, high = r->far + a->energy + 2 * sqrt(fabs(r->far)) * sqrt(a->energy);
    }
    for (int i = 0; i < BISECTIONS; i++) {
        const double middle = (low + high) / 2;
        if (expected_rows(a, r, middle) < a->k)
            low = middle;
        else
            high = middle;
    }
    return high;
}

static int64_t first_wave(const asked_t *a, size_t query, size_t least, ranked_t *r)
{
    int64_t wanted = column_of(r, least);
    double rows = 0;
    for (size_t i = 0; i < r->m && rows < 2 * a->k; i++) {
        rows += r->counts[i];
        if (r->columns[i] + 1 > wanted)
            wanted = r->columns[i] + 1;
    }
    if (!a->shares || !r->m)
        return wanted;
    expected_rows(a, r, first_threshold(a, query, r));
    double left = 0;
    for (size_t i = r->m; i-- > 0 && r->columns[i] >= wanted;) {
        left += r->low[i];
        if (left > a->most_missing)
            return r->columns[i] + 1;
    }
    return wanted;
}

/* ------------------------------------------------------------------ further waves */

/* Steps from `low` and `high` to a mean between them: bit i says whether step i lowers `high`. */
static double between(double low, double high, unsigned steps)
{
    for (int i = 0; i < HALVINGS; i++) {
        const double middle = sqrt(low * high);
        if (steps >> i & 1)
            high = middle;
        else
            low = middle;
    }
    return high;
}

/* Expected rows of each list that was visited lie between those of any filter, r->low, and those of the
 * worst one, r->high: where the visited lists would have brought enough rows. Returns the steps to it. */
static unsigned weigh(const asked_t *a, ranked_t *r, size_t visited)
{
    const double wanted = a->k + sqrt(a->k);
    unsigned steps = 0;
    for (int halving = 0; halving < HALVINGS; halving++) {
        double rows = 0;
        for (size_t i = 0; i < visited; i++) {
            r->middle[i] = sqrt(r->low[i] * r->high[i]);
            rows += r->middle[i];
        }
        const int enough = rows >= wanted;
        memcpy(enough ? r->high : r->low, r->middle, 8 * visited);
        steps |= (unsigned)enough << halving;
    }
    return steps;
}

/* The first column from which on few enough rows are expected, at threshold t. */
static int64_t end_at(const asked_t *a, ranked_t *r, size_t visited, double t, double behind)
{
    const double wanted = a->k + sqrt(a->k);
    double rows = 0, left = 0;
    for (size_t i = 0; i < r->m; i++) {
        const double share = share_at(a, r->p[i], r->b[i], r->bands[i], t);
        const double most = r->sizes[i] * share;
        r->low[i] = r->counts[i] * share;
        r->high[i] = most < r->counts[i] ? most : r->counts[i];
        if (i < visited)
            rows += r->low[i];
    }
    const int short_of = rows < wanted;
    const unsigned steps = short_of ? weigh(a, r, visited) : 0;
    for (size_t i = r->m; i-- > visited;) {
        left += short_of ? between(r->low[i], r->high[i], steps) : r->low[i];
        if (left + behind > a->most_missing)
            return r->columns[i] + 1;
    }
    return 0; /* no more than were visited */
}

static int64_t next_wave(const asked_t *a, int64_t visited, double t, ranked_t *r, uint8_t *beyond)
{
    size_t lists = 0;
    while (lists < r->m && r->columns[lists] < visited)
        lists++;
    int64_t wanted = column_of(r, 2 * lists > lists + 1 ? 2 * lists : lists + 1);
    if (t != t) { /* fewer than k rows were found */
        *beyond = r->behind > 0;
    } else if (!a->shares) {
        *beyond = 0, wanted = visited;
    } else {
        const double share = share_at(a, r->last_p, r->last_b, r->last_band, t);
        const double behind = r->behind * (r->any ? share : 1);
        const int64_t end = end_at(a, r, lists, t, behind);
        wanted = column_of(r, 3 * lists > lists + 1 ? 3 * lists : lists + 1);
        wanted = end < wanted ? end : wanted;
        *beyond = behind > a->most_missing;
    }
    return wanted > visited ? wanted : visited;
}

/* ------------------------------------------------------------------ functions */

static int take_asked(buffers_t *all, asked_t *a, PyObject *spread, PyObject *lists)
{
    PyObject *o_shares, *o_bands, *o_lengths, *o_list_nos, *o_distances, *o_counts, *o_sizes;
    size_t nshares, nbands, nlengths, found, ndistances, nsizes;
    Py_ssize_t width;
    if (!PyArg_ParseTuple(spread, "dddnOOO", &a->energy, &a->step, &a->offset, &width, &o_shares,
                          &o_bands, &o_lengths) ||
        !PyArg_ParseTuple(lists, "OOOOd", &o_list_nos, &o_distances, &o_counts, &o_sizes,
                          &a->total) ||
        !check_positive("width", width) ||
        !(a->bands = take(all, o_bands, "bands", 'i', 0, &a->n)) ||
        !(a->list_nos = take(all, o_list_nos, "list_nos", 'q', 0, &found)) ||
        !(a->distances = take(all, o_distances, "distances", 'f', 0, &ndistances)) ||
        !(a->counts = take(all, o_counts, "counts", 'q', 0, &a->nlist)) ||
        !(a->sizes = take(all, o_sizes, "sizes", 'q', 0, &nsizes)) ||
        !check_product("list_nos", found, a->nq, a->n) ||
        !check_length("distances", ndistances, found) || !check_length("sizes", nsizes, a->nlist))
        return 0;
    a->width = (size_t)width;
    if (o_shares != Py_None) {
        if (!(a->shares = take(all, o_shares, "shares", 'd', 0, &nshares)) ||
            !check_product("shares", nshares, nbands = nshares / a->width, a->width))
            return 0;
        for (size_t i = 0; i < a->n; i++)
            if (a->bands[i] < 0 || (size_t)a->bands[i] >= nbands) {
                PyErr_Format(PyExc_ValueError, "band %d of %zu", a->bands[i], nbands);
                return 0;
            }
    }
    if (o_lengths != Py_None &&
        (!(a->lengths = take(all, o_lengths, "lengths", 'd', 0, &nlengths)) ||
         !check_length("lengths", nlengths, a->nq)))
        return 0;
    for (size_t i = 0; i < found; i++)
        if (a->list_nos[i] >= 0 && (size_t)a->list_nos[i] >= a->nlist) {
            PyErr_Format(PyExc_ValueError, "list %lld of %zu", (long long)a->list_nos[i],
                         a->nlist);
            return 0;
        }
    return 1;
}

/* Memory for one query's ranked lists; free(r->p). */
static int make_ranked(const asked_t *a, ranked_t *r)
{
    const size_t n = a->n + 1;
    char *memory = malloc(n * (7 * 8 + 2 * 4));
    if (!memory) {
        PyErr_NoMemory();
        return 0;
    }
    r->p = (double *)memory, r->b = r->p + n, r->counts = r->b + n, r->sizes = r->counts + n;
    r->low = r->sizes + n, r->high = r->low + n, r->middle = r->high + n;
    r->columns = (int32_t *)(r->middle + n), r->bands = r->columns + n;
    return 1;
}

static PyObject *py_first(PyObject *self, PyObject *args)
{
    PyObject *spread, *lists, *o_wanted, *result = NULL;
    buffers_t all = {.count = 0};
    asked_t a = {0};
    ranked_t r;
    Py_ssize_t least;
    int64_t *wanted;
    (void)self;
    if (!PyArg_ParseTuple(args, "ddnOOO:first", &a.k, &a.most_missing, &least, &spread, &lists,
                          &o_wanted) ||
        !check_positive("least", least))
        return NULL;
    if ((wanted = take(&all, o_wanted, "out_wanted", 'q', 1, &a.nq)) &&
        take_asked(&all, &a, spread, lists) && make_ranked(&a, &r)) {
        Py_BEGIN_ALLOW_THREADS;
        for (size_t query = 0; query < a.nq; query++) {
            rank(&a, query, &r);
            wanted[query] = first_wave(&a, query, (size_t)least, &r);
        }
        Py_END_ALLOW_THREADS;
        free(r.p);
        result = Py_NewRef(Py_None);
    }
    release(&all);
    return result;
}

static PyObject *py_further(PyObject *self, PyObject *args)
{
    PyObject *spread, *lists, *o_thresholds, *o_visited, *o_wanted, *o_beyond, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nwanted, nthresholds, nbeyond;
    asked_t a = {0};
    ranked_t r;
    const double *thresholds;
    const int64_t *visited;
    int64_t *wanted;
    uint8_t *beyond;
    (void)self;
    if (!PyArg_ParseTuple(args, "ddOOOOOO:further", &a.k, &a.most_missing, &spread, &lists,
                          &o_thresholds, &o_visited, &o_wanted, &o_beyond))
        return NULL;
    if ((visited = take(&all, o_visited, "visited", 'q', 0, &a.nq)) &&
        (thresholds = take(&all, o_thresholds, "thresholds", 'd', 0, &nthresholds)) &&
        (wanted = take(&all, o_wanted, "out_wanted", 'q', 1, &nwanted)) &&
        (beyond = take(&all, o_beyond, "out_beyond", 'B', 1, &nbeyond)) &&
        check_length("thresholds", nthresholds, a.nq) &&
        check_length("out_wanted", nwanted, a.nq) && check_length("out_beyond", nbeyond, a.nq) &&
        take_asked(&all, &a, spread, lists) && make_ranked(&a, &r)) {
        Py_BEGIN_ALLOW_THREADS;
        for (size_t query = 0; query < a.nq; query++) {
            wanted[query] = visited[query], beyond[query] = 0;
            if (visited[query] < 0)
                continue;
            rank(&a, query, &r);
            wanted[query] = next_wave(&a, visited[query], thresholds[query], &r, beyond + query);
        }
        Py_END_ALLOW_THREADS;
        free(r.p);
        result = Py_NewRef(Py_None);
    }
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"first", py_first, METH_VARARGS,
     "first(k, most_missing, least, spread, lists, out_wanted)\n\nSee waves.py.\n"
     "spread: (energy, step, offset, width, shares or None, bands, lengths or None).\n"
     "lists: (list_nos, distances, counts, sizes, total)."},
    {"further", py_further, METH_VARARGS,
     "further(k, most_missing, spread, lists, thresholds, visited, out_wanted, out_beyond)\n\n"
     "See waves.py."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._waves", "Waves of a filtered search; see _waves.c.", 0,
    methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__waves(void)
{
    return PyModuleDef_Init(&module);
}
