/* teravec.native._native: nearest centroid assignment, sums by list and k smallest values.
 *
 * Scores are |c|^2 / 2 - x.c in float32; the row's own |x|^2 changes no order and is added last.
 * Kernels are in _native_kernels.h, compiled for several instruction sets; `level` picks one.
 */
#include "_native_common.h"
#include "_native_select.h"
#include "_threads.h"

/* Packed panels scanned per pass over the rows: half of a 512 KiB second-level cache. */
#define RUN_BYTES ((size_t)192 * 1024)
/* Rows per pass over all centroids in the exact scan. */
#define EXACT_ROWS ((size_t)2048)
/* Bounds of the grouped scan's scratch; a block of rows ends when either is reached. */
#define PAIRS ((size_t)256 * 1024)
#define ROWS ((size_t)16 * 1024)

/* Centroids in groups. Group j is panels starts[j]..starts[j + 1]; unused places of its last panel
 * have half-norm +inf. ids gives the list number of each place, ascending within a group. */
typedef struct {
    size_t d, ngroups;
    const float *packed, *half, *centers, *center_half;
    const int32_t *ids, *starts;
    float margin;
} grouped_t;

typedef struct {
    size_t stride, score_rows, max_rows, max_pairs;
    float *scores;
    uint32_t *pair_group, *pair_row, *row_end, *group_end;
} scratch_t;

/* Centroids a second time, as bytes. A lone row is compared with these first, because reading all
 * floats would be most of its work. */
enum { BYTE_PLACES = 16 };
#define BYTE_SUMS ((float)(INT32_MAX / 128)) /* what a sum of products with bytes has room for */
typedef struct {
    size_t nlist;
    const int8_t *bytes;    /* (panels of BYTE_PLACES, pairs of elements, BYTE_PLACES, 2); or NULL */
    const float *centroids; /* (nlist, d) */
    float unit;             /* of bytes */
    float missed, longest, most_half; /* most of |c - unit bytes|, |unit bytes| and half-norms */
    int16_t *shorts;                  /* (2 pairs,) */
    int32_t *products;                /* (stride, rounded up,) */
    float *lowest;                    /* (k,) */
} bytes_t;

/* What a search for the nearest centroids works on, */
enum { ONE_PLACES = 128 }; /* places that one row alone is compared with at least */
typedef struct {
    size_t d, k, stride, rows_each, capacity;
    int level, similarity;
    const float *packed, *half;
    bytes_t bytes;
} nearest_t;

/* and what each of its threads works in. */
typedef struct {
    float *scores;    /* (rows_each, stride) */
    uint64_t *buffer; /* (capacity,) */
    int32_t *index;   /* (k,) */
} ranks_t;

/* ------------------------------------------------------------------ instruction sets */

#define VL 4
#define NAME(x) x##_base
#define FN static
#include "_native_kernels.h"

#if NATIVE_X86
#define VL 8
#define NAME(x) x##_avx2
#define FN AVX2_TARGET static
#include "_native_kernels.h"

#define VL 16
#define NAME(x) x##_avx512
#define FN AVX512_TARGET static
#include "_native_kernels.h"
#endif

static size_t panel_places(int level)
{
    return (size_t)8 << level;
}

/* ------------------------------------------------------------------ functions */

static PyObject *py_best_level(PyObject *self, PyObject *args)
{
    (void)self, (void)args;
    return PyLong_FromLong(best_level());
}

static PyObject *py_panel_places(PyObject *self, PyObject *args)
{
    int level;
    (void)self;
    if (!PyArg_ParseTuple(args, "i:panel_places", &level) || !check_level(level))
        return NULL;
    return PyLong_FromSize_t(panel_places(level));
}

/* Panels of packed centroids: packed is (panels, d, places), half is (panels, places). */
static int check_panels(const char *name, size_t packed, size_t half, size_t d, size_t places)
{
    if (half == 0 || half % places || half > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "half-norms of %s: %zu is no positive multiple of %zu", name,
                     half, places);
        return 0;
    }
    return check_product(name, packed, half, d);
}

static PyObject *py_assign_exact(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t d;
    PyObject *o_x, *o_packed, *o_half, *o_list, *o_distance, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nx, npacked, nhalf, n, nd;
    (void)self;
    if (!PyArg_ParseTuple(args, "inOOOOO:assign_exact", &level, &d, &o_x, &o_packed, &o_half,
                          &o_list, &o_distance) ||
        !check_level(level) || !check_positive("d", d))
        return NULL;
    const float *x, *packed, *half;
    int32_t *list;
    float *distance;
    if (!(x = take(&all, o_x, "x", 'f', 0, &nx)) ||
        !(packed = take(&all, o_packed, "packed", 'f', 0, &npacked)) ||
        !(half = take(&all, o_half, "half", 'f', 0, &nhalf)) ||
        !(list = take(&all, o_list, "out_list", 'i', 1, &n)) ||
        !(distance = take(&all, o_distance, "out_distance", 'f', 1, &nd)) ||
        !check_product("x", nx, n, (size_t)d) || !check_length("out_distance", nd, n) ||
        !check_panels("packed", npacked, nhalf, (size_t)d, panel_places(level)))
        goto done;
    Py_BEGIN_ALLOW_THREADS;
    AT_LEVEL(level, assign_exact, x, n, (size_t)d, packed, half, nhalf / panel_places(level), list,
             distance);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

/* starts must rise from 0 to npanels. */
static int check_starts(const int32_t *starts, size_t ngroups, size_t npanels)
{
    int good = starts[0] == 0 && starts[ngroups] >= 0 && (size_t)starts[ngroups] == npanels;
    for (size_t j = 0; good && j < ngroups; j++)
        good = starts[j] <= starts[j + 1];
    if (!good)
        PyErr_Format(PyExc_ValueError, "starts does not rise from 0 to %zu", npanels);
    return good;
}

/* Rows scored at a time: a multiple of a tile's six rows, whose scores fit the second-level cache. */
static size_t rows_at_once(size_t stride)
{
    const size_t rows = 65536 / stride / 6 * 6;
    return rows < 6 ? 6 : rows > 48 ? 48 : rows;
}

static void free_scratch(scratch_t *w)
{
    free(w->scores);
    free(w->pair_group);
    free(w->pair_row);
    free(w->row_end);
    free(w->group_end);
}

/* About 4 MiB; more only if there are many thousands of groups. */
static int allocate_scratch(scratch_t *w, size_t n, size_t ngroups, size_t stride)
{
    w->stride = stride;
    w->score_rows = rows_at_once(stride);
    w->max_rows = n < ROWS ? n : ROWS;
    w->max_pairs = (n < PAIRS / ngroups ? n * ngroups : PAIRS) + 2 * ngroups + 1;
    w->scores = malloc(w->score_rows * stride * sizeof *w->scores);
    w->pair_group = malloc(w->max_pairs * sizeof *w->pair_group);
    w->pair_row = malloc(w->max_pairs * sizeof *w->pair_row);
    w->row_end = malloc(w->max_rows * sizeof *w->row_end);
    w->group_end = malloc(ngroups * sizeof *w->group_end);
    return w->scores && w->pair_group && w->pair_row && w->row_end && w->group_end;
}

static PyObject *py_assign_grouped(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t d;
    PyObject *o_x, *o_packed, *o_half, *o_ids, *o_starts, *o_centers, *o_center_half, *o_list,
        *o_distance, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nx, npacked, nhalf, nids, nstarts, ncenters, ncenter_half, n, nd;
    grouped_t g;
    (void)self;
    if (!PyArg_ParseTuple(args, "inOOOOOOOfOO:assign_grouped", &level, &d, &o_x, &o_packed, &o_half,
                          &o_ids, &o_starts, &o_centers, &o_center_half, &g.margin, &o_list,
                          &o_distance) ||
        !check_level(level) || !check_positive("d", d))
        return NULL;
    const size_t places = panel_places(level);
    const float *x;
    int32_t *list;
    float *distance;
    if (!(x = take(&all, o_x, "x", 'f', 0, &nx)) ||
        !(g.packed = take(&all, o_packed, "packed", 'f', 0, &npacked)) ||
        !(g.half = take(&all, o_half, "half", 'f', 0, &nhalf)) ||
        !(g.ids = take(&all, o_ids, "ids", 'i', 0, &nids)) ||
        !(g.starts = take(&all, o_starts, "starts", 'i', 0, &nstarts)) ||
        !(g.centers = take(&all, o_centers, "centers", 'f', 0, &ncenters)) ||
        !(g.center_half = take(&all, o_center_half, "center_half", 'f', 0, &ncenter_half)) ||
        !(list = take(&all, o_list, "out_list", 'i', 1, &n)) ||
        !(distance = take(&all, o_distance, "out_distance", 'f', 1, &nd)) ||
        !check_product("x", nx, n, (size_t)d) || !check_length("out_distance", nd, n) ||
        !check_panels("packed", npacked, nhalf, (size_t)d, places) ||
        !check_panels("centers", ncenters, ncenter_half, (size_t)d, places) ||
        !check_length("ids", nids, nhalf))
        goto done;
    if (nstarts < 2 || nstarts - 1 > ncenter_half) {
        PyErr_Format(PyExc_ValueError, "starts has %zu elements for %zu places of centers", nstarts,
                     ncenter_half);
        goto done;
    }
    g.d = (size_t)d;
    g.ngroups = nstarts - 1;
    if (!check_starts(g.starts, g.ngroups, nhalf / places))
        goto done;
    if (n == 0) {
        result = Py_NewRef(Py_None);
        goto done;
    }
    scratch_t scratch = {0};
    if (!allocate_scratch(&scratch, n, g.ngroups, ncenter_half)) {
        PyErr_NoMemory();
    } else {
        Py_BEGIN_ALLOW_THREADS;
        AT_LEVEL(level, assign_grouped, x, n, &g, &scratch, list, distance);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    free_scratch(&scratch);
done:
    release(&all);
    return result;
}

static PyObject *py_accumulate(PyObject *self, PyObject *args)
{
    int level, bad = 0;
    Py_ssize_t d, col_start, col_stop;
    PyObject *o_x, *o_weights, *o_list, *o_sums, *o_counts, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nx, n, nsums, nlist;
    (void)self;
    if (!PyArg_ParseTuple(args, "inOOOOOnn:accumulate", &level, &d, &o_x, &o_weights, &o_list,
                          &o_sums, &o_counts, &col_start, &col_stop) ||
        !check_level(level) || !check_positive("d", d))
        return NULL;
    const float *x, *weights = NULL;
    const int32_t *list;
    double *sums;
    int64_t *counts = NULL;
    if (!(x = take(&all, o_x, "x", 'f', 0, &nx)) ||
        !(list = take(&all, o_list, "list_no", 'i', 0, &n)) ||
        !(sums = take(&all, o_sums, "sums", 'd', 1, &nsums)))
        goto done;
    nlist = nsums / (size_t)d;
    if (o_weights != Py_None) {
        size_t nweights;
        if (!(weights = take(&all, o_weights, "weights", 'f', 0, &nweights)) ||
            !check_length("weights", nweights, n))
            goto done;
    }
    if (o_counts != Py_None) {
        size_t ncounts;
        if (!(counts = take(&all, o_counts, "counts", 'q', 1, &ncounts)) ||
            !check_length("counts", ncounts, nlist))
            goto done;
    }
    if (!check_product("x", nx, n, (size_t)d) || !check_product("sums", nsums, nlist, (size_t)d))
        goto done;
    if (col_start < 0 || col_start > col_stop || col_stop > d) {
        PyErr_Format(PyExc_ValueError, "columns %zd to %zd are not within 0 to %zd", col_start,
                     col_stop, d);
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    bad = AT_LEVEL(level, accumulate, x, weights, n, (size_t)d, list, nlist, sums, counts,
                   (size_t)col_start, (size_t)col_stop);
    Py_END_ALLOW_THREADS;
    if (bad)
        PyErr_Format(PyExc_ValueError, "list_no has a number outside 0 to %zu", nlist);
    else
        result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

static PyObject *py_smallest_k(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t m, k;
    PyObject *o_scores, *o_index, *o_value, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nscores, nindex, nvalue;
    (void)self;
    if (!PyArg_ParseTuple(args, "innOOO:smallest_k", &level, &m, &k, &o_scores, &o_index,
                          &o_value) ||
        !check_level(level) || !check_positive("m", m) || !check_positive("k", k))
        return NULL;
    if (k > m) {
        PyErr_Format(PyExc_ValueError, "k is %zd of %zd values", k, m);
        return NULL;
    }
    const float *scores;
    int32_t *index;
    float *value;
    if (!(scores = take(&all, o_scores, "scores", 'f', 0, &nscores)) ||
        !(index = take(&all, o_index, "out_index", 'i', 1, &nindex)) ||
        !(value = take(&all, o_value, "out_value", 'f', 1, &nvalue)))
        goto done;
    const size_t n = nscores / (size_t)m;
    if (!check_product("scores", nscores, n, (size_t)m) ||
        !check_product("out_index", nindex, n, (size_t)k) ||
        !check_product("out_value", nvalue, n, (size_t)k))
        goto done;
    size_t capacity = 3 * (size_t)k + 512;
    capacity = capacity < (size_t)m ? capacity : (size_t)m;
    uint64_t *buffer = malloc(capacity * sizeof *buffer);
    if (!buffer) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    for (size_t i = 0; i < n; i++)
        AT_LEVEL(level, smallest_k, scores + i * (size_t)m, (size_t)m, (size_t)k, buffer, capacity,
                 index + i * (size_t)k, value + i * (size_t)k);
    Py_END_ALLOW_THREADS;
    free(buffer);
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

#include "_native_nearest.h"

static PyObject *py_scores(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t d;
    PyObject *o_x, *o_packed, *o_half, *o_out, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nx, npacked, nhalf, nout;
    (void)self;
    if (!PyArg_ParseTuple(args, "inOOOO:scores", &level, &d, &o_x, &o_packed, &o_half, &o_out) ||
        !check_level(level) || !check_positive("d", d))
        return NULL;
    const float *x, *packed, *half;
    float *out;
    if (!(x = take(&all, o_x, "x", 'f', 0, &nx)) ||
        !(packed = take(&all, o_packed, "packed", 'f', 0, &npacked)) ||
        !(half = take(&all, o_half, "half", 'f', 0, &nhalf)) ||
        !(out = take(&all, o_out, "out", 'f', 1, &nout)))
        goto done;
    const size_t n = nx / (size_t)d, room = (n + 5) / 6 * 6;
    if (!check_product("x", nx, n, (size_t)d) ||
        !check_panels("packed", npacked, nhalf, (size_t)d, panel_places(level)) ||
        !check_product("out", nout, room, nhalf))
        goto done;
    Py_BEGIN_ALLOW_THREADS;
    AT_LEVEL(level, score_rows, x, n, (size_t)d, packed, half, nhalf, out);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"best_level", py_best_level, METH_NOARGS,
     "best_level() -> int\n\n0 baseline, 1 AVX2 and FMA, 2 AVX-512F."},
    {"panel_places", py_panel_places, METH_VARARGS,
     "panel_places(level) -> int\n\nCentroids in one packed panel."},
    {"assign_exact", py_assign_exact, METH_VARARGS,
     "assign_exact(level, d, x, packed, half, out_list, out_distance)"},
    {"assign_grouped", py_assign_grouped, METH_VARARGS,
     "assign_grouped(level, d, x, packed, half, ids, starts, centers, center_half, margin, "
     "out_list, out_distance)"},
    {"accumulate", py_accumulate, METH_VARARGS,
     "accumulate(level, d, x, weights or None, list_no, sums, counts or None, col_start, col_stop)"},
    {"smallest_k", py_smallest_k, METH_VARARGS,
     "smallest_k(level, m, k, scores, out_index, out_value)"},
    {"scores", py_scores, METH_VARARGS,
     "scores(level, d, x, packed, half, out)\n\nout has rows for the next multiple of six."},
    {"nearest", py_nearest, METH_VARARGS,
     "nearest(level, d, k, similarity, threads, x, packed, half, centroids, bytes, bounds,\n"
     "        out_list, out_distance)\n\nThe three before the last may be None; see nearest.py."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, import_threads}, {0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._native",
    "Compiled kernels; see _native.c and native.py.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&module);
}
