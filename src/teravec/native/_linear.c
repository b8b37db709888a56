/* teravec.native._linear: what a rotation and a PCA need of linear algebra, in float64.
 *
 * Every sum is one chain in a fixed order. Vectors run over columns only, and the file is compiled
 * without fused operations, so that the results are the same on every processor. LAPACK's depend on
 * the processor and on the number of threads.
 */
#include "_native_common.h"

enum { STRIP = 32 };              /* columns that are worked on together: 256 bytes of a row */
enum { ROTATIONS = 1 << 14 };     /* collected before they are applied */
enum { MOST_SWEEPS = 60 };        /* of one eigenvalue; two are usual */
#define EPSILON 0x1p-52

typedef struct {
    size_t row;
    double c, s;
} rotation_t;

#define KERNELS "_linear_kernels.h"
#include "_levels.h"

/* ------------------------------------------------------------------ reflections */

static PyObject *py_reflect(PyObject *self, PyObject *args)
{
    int level, backward;
    Py_ssize_t d, first, last, shift;
    PyObject *o_vectors, *o_strip, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nvectors, nstrip;
    (void)self;
    if (!PyArg_ParseTuple(args, "innnniOO:reflect", &level, &d, &first, &last, &shift, &backward,
                          &o_vectors, &o_strip) ||
        !check_level(level) || !check_positive("d", d))
        return NULL;
    const double *vectors;
    double *strip;
    if (!(vectors = take(&all, o_vectors, "vectors", 'd', 0, &nvectors)) ||
        !(strip = take(&all, o_strip, "strip", 'd', 1, &nstrip)) ||
        !check_product("vectors", nvectors, nvectors / (size_t)d, (size_t)d) ||
        !check_product("strip", nstrip, (size_t)d, STRIP))
        goto done;
    if (first < 0 || last < first || (size_t)last > nvectors / (size_t)d || shift < 0) {
        PyErr_Format(PyExc_ValueError, "vectors %zd to %zd of %zu, shift %zd", first, last,
                     nvectors / (size_t)d, shift);
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    AT_LEVEL(level, reflect, vectors, (size_t)d, (size_t)first, (size_t)last, (size_t)shift, backward,
             strip);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ symmetric matrices */

static PyObject *py_deflate(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t d, start;
    PyObject *o_matrix, *o_v, *o_w, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nmatrix, nv, nw;
    (void)self;
    if (!PyArg_ParseTuple(args, "innOOO:deflate", &level, &d, &start, &o_matrix, &o_v, &o_w) ||
        !check_level(level) || !check_positive("d", d))
        return NULL;
    double *matrix;
    const double *v, *w;
    if (!(matrix = take(&all, o_matrix, "matrix", 'd', 1, &nmatrix)) ||
        !(v = take(&all, o_v, "v", 'd', 0, &nv)) || !(w = take(&all, o_w, "w", 'd', 0, &nw)) ||
        !check_product("matrix", nmatrix, (size_t)d, (size_t)d) ||
        !check_length("v", nv, (size_t)d) || !check_length("w", nw, (size_t)d))
        goto done;
    if (start < 0 || start > d) {
        PyErr_Format(PyExc_ValueError, "start is %zd of %zd", start, d);
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    AT_LEVEL(level, deflate, matrix, (size_t)d, (size_t)start, v, w);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

static PyObject *py_product(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t d, start;
    PyObject *o_matrix, *o_v, *o_out, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nmatrix, nv, nout;
    (void)self;
    if (!PyArg_ParseTuple(args, "innOOO:product", &level, &d, &start, &o_matrix, &o_v, &o_out) ||
        !check_level(level) || !check_positive("d", d))
        return NULL;
    const double *matrix, *v;
    double *out;
    if (!(matrix = take(&all, o_matrix, "matrix", 'd', 0, &nmatrix)) ||
        !(v = take(&all, o_v, "v", 'd', 0, &nv)) || !(out = take(&all, o_out, "out", 'd', 1, &nout)) ||
        !check_product("matrix", nmatrix, (size_t)d, (size_t)d) ||
        !check_length("v", nv, (size_t)d) || !check_length("out", nout, (size_t)d))
        goto done;
    if (start < 0 || start > d) {
        PyErr_Format(PyExc_ValueError, "start is %zd of %zd", start, d);
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    AT_LEVEL(level, product, matrix, (size_t)d, (size_t)start, v, out);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ tridiagonal matrices */

typedef struct {
    int level;
    size_t n, count;
    double *rows; /* (n, n) */
    rotation_t *rotations;
} turning_t;

static void turn(turning_t *t)
{
    for (size_t at = 0; at < t->n; at += STRIP) {
        const size_t width = t->n - at < STRIP ? t->n - at : STRIP;
        AT_LEVEL(t->level, turn, t->rotations, t->count, t->rows + at, t->n, width);
    }
    t->count = 0;
}

/* The length of (a, b). */
static double length_of(double a, double b)
{
    const double x = fabs(a), y = fabs(b), large = x > y ? x : y, small = x > y ? y : x;
    if (large == 0)
        return 0;
    const double ratio = small / large;
    return large * sqrt(1 + ratio * ratio);
}

/* One sweep of QL with implicit shift over the block l..m; returns the shift. */
static double sweep(double *d, double *e, size_t l, size_t m, turning_t *t)
{
    const double g = d[l], half = (d[l + 1] - g) / (2 * e[l]);
    const double r = half < 0 ? -length_of(half, 1) : length_of(half, 1);
    d[l] = e[l] / (half + r);
    d[l + 1] = e[l] * (half + r);
    const double next = d[l + 1], shift = g - d[l], ahead = e[l + 1];
    for (size_t i = l + 2; i < t->n; i++)
        d[i] -= shift;
    double p = d[m], c = 1, c2 = 1, c3 = 1, s = 0, s2 = 0;
    for (size_t i = m; i-- > l;) {
        c3 = c2, c2 = c, s2 = s;
        const double ce = c * e[i], cp = c * p, size = length_of(p, e[i]);
        e[i + 1] = s * size;
        s = size > 0 ? e[i] / size : 0;
        c = size > 0 ? p / size : 1;
        p = c * d[i] - s * ce;
        d[i + 1] = cp + s * (c * ce + s * d[i]);
        t->rotations[t->count++] = (rotation_t){i, c, s};
        if (t->count == ROTATIONS)
            turn(t);
    }
    p = -s * s2 * c3 * ahead * e[l] / next;
    e[l] = s * p;
    d[l] = c * p;
    return shift;
}

/* Eigenvalues to d, and eigenvectors to the rows, which begin as the identity; 0 if they do not converge.
 * EISPACK's tql2: Bowdler, Martin, Reinsch, Wilkinson, The QR and QL algorithms for symmetric matrices,
 * 1968. */
static int solve(double *d, double *e, turning_t *t)
{
    double shifted = 0, most = 0;
    for (size_t l = 0; l < t->n; l++) {
        const double here = fabs(d[l]) + fabs(e[l]);
        most = here > most ? here : most;
        size_t m = l;
        while (m + 1 < t->n && fabs(e[m]) > EPSILON * most)
            m++;
        for (int i = 0; m > l && fabs(e[l]) > EPSILON * most; i++) {
            if (i == MOST_SWEEPS)
                return 0;
            shifted += sweep(d, e, l, m, t);
        }
        d[l] += shifted;
        e[l] = 0;
    }
    turn(t);
    return 1;
}

static PyObject *py_solve(PyObject *self, PyObject *args)
{
    PyObject *o_d, *o_e, *o_rows, *result = NULL;
    buffers_t all = {.count = 0};
    size_t ne, nrows;
    int good;
    turning_t t = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "iOOO:solve", &t.level, &o_d, &o_e, &o_rows) || !check_level(t.level))
        return NULL;
    double *d, *e;
    if (!(d = take(&all, o_d, "diagonal", 'd', 1, &t.n)) || !(e = take(&all, o_e, "beside", 'd', 1, &ne)) ||
        !(t.rows = take(&all, o_rows, "rows", 'd', 1, &nrows)) || !check_length("beside", ne, t.n) ||
        !check_product("rows", nrows, t.n, t.n))
        goto done;
    if (!(t.rotations = malloc(ROTATIONS * sizeof *t.rotations))) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    good = solve(d, e, &t);
    Py_END_ALLOW_THREADS;
    free(t.rotations);
    result = PyBool_FromLong(good);
done:
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"reflect", py_reflect, METH_VARARGS,
     "reflect(level, d, first, last, shift, backward, vectors, strip)\n\nSee kernels/orthogonal.py."},
    {"deflate", py_deflate, METH_VARARGS, "deflate(level, d, start, matrix, v, w)"},
    {"product", py_product, METH_VARARGS, "product(level, d, start, matrix, v, out)"},
    {"solve", py_solve, METH_VARARGS, "solve(level, diagonal, beside, rows) -> bool"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._linear", "Compiled kernels; see _linear.c.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__linear(void)
{
    return PyModuleDef_Init(&module);
}
