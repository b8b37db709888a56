/* teravec.native._reads: the byte ranges of some lists, and how much of them is in the page cache. */
#include "_native_common.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ------------------------------------------------------------------ what is read together */

/* Combine n ascending lists of files into ranges of whole sectors. Lists of one file that are at most
 * `gap` apart share a range, of about `segment` bytes at most. `out` has room for n ranges of three
 * numbers: first byte, length, and byte of the buffer. `bounds` receives the first list of each range,
 * then n; `at` receives where each list begins in the buffer. Returns the number of ranges. */
static size_t joined(size_t n, const int64_t *files, const int64_t *offsets, const int64_t *lengths,
                     int64_t gap, int64_t segment, int64_t sector, int64_t *out, int64_t *bounds,
                     int64_t *at)
{
    int64_t *lows = out, *sizes = out + n, *begins = out + 2 * n, end = 0, total = 0, begin = 0;
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        const int64_t before = total / segment;
        total += lengths[i];
        const int apart = i && (files[i] != files[i - 1] || offsets[i] - end > gap ||
                                total / segment != before);
        if (apart)
            begin += sizes[m++];
        if (!i || apart) {
            bounds[m] = (int64_t)i;
            lows[m] = offsets[i] / sector * sector;
            begins[m] = begin;
        }
        end = offsets[i] + lengths[i];
        sizes[m] = (end - lows[m] + sector - 1) / sector * sector;
        at[i] = begin + offsets[i] - lows[m];
    }
    bounds[n ? ++m : 0] = (int64_t)n;
    return m;
}

static PyObject *py_join(PyObject *self, PyObject *args)
{
    Py_ssize_t gap, segment, sector;
    PyObject *o_files, *o_offsets, *o_lengths, *o_ranges, *o_bounds, *o_at, *result = NULL;
    buffers_t all = {.count = 0};
    size_t n, noffsets, nlengths, nranges, nbounds, nat;
    const int64_t *files, *offsets, *lengths;
    int64_t *ranges, *bounds, *at;
    (void)self;
    if (!PyArg_ParseTuple(args, "nnnOOOOOO:join", &gap, &segment, &sector, &o_files, &o_offsets,
                          &o_lengths, &o_ranges, &o_bounds, &o_at) ||
        !check_positive("segment", segment) || !check_positive("sector", sector))
        return NULL;
    if ((files = take(&all, o_files, "files", 'q', 0, &n)) &&
        (offsets = take(&all, o_offsets, "offsets", 'q', 0, &noffsets)) &&
        (lengths = take(&all, o_lengths, "lengths", 'q', 0, &nlengths)) &&
        (ranges = take(&all, o_ranges, "ranges", 'q', 1, &nranges)) &&
        (bounds = take(&all, o_bounds, "bounds", 'q', 1, &nbounds)) &&
        (at = take(&all, o_at, "at", 'q', 1, &nat)) && check_length("offsets", noffsets, n) &&
        check_length("lengths", nlengths, n) && check_product("ranges", nranges, 3, n) &&
        check_length("bounds", nbounds, n + 1) && check_length("at", nat, n))
        result = PyLong_FromSize_t(
            joined(n, files, offsets, lengths, gap, segment, sector, ranges, bounds, at));
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ the page cache */

enum { CACHESTAT = 451 }; /* cachestat(2), since Linux 6.5, of every architecture */

typedef struct {
    uint64_t offset, length;
} range_t;

typedef struct {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
} stat_t;

static PyObject *py_cached(PyObject *self, PyObject *args)
{
    PyObject *o_fds, *o_offsets, *o_lengths, *o_out, *result = NULL;
    buffers_t all = {.count = 0};
    size_t n, noffsets, nlengths, nout;
    const int64_t *fds, *offsets, *lengths;
    int64_t *out;
    int code = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOO:cached", &o_fds, &o_offsets, &o_lengths, &o_out))
        return NULL;
    if (!(fds = take(&all, o_fds, "fds", 'q', 0, &n)) ||
        !(offsets = take(&all, o_offsets, "offsets", 'q', 0, &noffsets)) ||
        !(lengths = take(&all, o_lengths, "lengths", 'q', 0, &nlengths)) ||
        !(out = take(&all, o_out, "out", 'q', 1, &nout)) ||
        !check_length("offsets", noffsets, n) || !check_length("lengths", nlengths, n) ||
        !check_length("out", nout, n))
        goto done;
    const int64_t page = sysconf(_SC_PAGESIZE);
    Py_BEGIN_ALLOW_THREADS;
    for (size_t i = 0; i < n && !code; i++) {
        const range_t range = {(uint64_t)offsets[i], (uint64_t)lengths[i]};
        stat_t stat;
        code = syscall(CACHESTAT, (int)fds[i], &range, &stat, 0) ? errno : 0;
        out[i] = code ? 0 : (int64_t)stat.cached * page;
    }
    Py_END_ALLOW_THREADS;
    errno = code;
    result = code ? PyErr_SetFromErrno(PyExc_OSError) : Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"join", py_join, METH_VARARGS, "Ranges that hold some lists, near ones read together."},
    {"cached", py_cached, METH_VARARGS, "Bytes of ranges of files that the page cache has."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._reads", "Reads of lists; see _reads.c.", 0,
    methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__reads(void)
{
    return PyModuleDef_Init(&module);
}
