/* teravec.native._pages: checking pages of row files, and the places of their cache.
 *
 * The cache has `ways` places for each set of units (pages or rows): unit u lies in set u % nsets.
 * tags[place] is the unit there, or -1; wanted[place] counts how often it was found, up to three.
 */
#include "_native_common.h"
#include "_xxh3.h"

enum { MOST_WANTED = 3, AHEAD = 8 };

typedef struct {
    size_t n, ways, nsets, unit_bytes;
    int64_t *tags;
    uint8_t *wanted;
    const int64_t *units;
} cache_t;

static inline size_t set_of(const cache_t *c, size_t i)
{
    return (size_t)c->units[i] % c->nsets * c->ways;
}

/* Buffers that `find` and `keep` share. */
static int take_cache(cache_t *c, buffers_t *all, Py_ssize_t ways, Py_ssize_t unit_bytes,
                      PyObject *o_tags, PyObject *o_wanted, PyObject *o_units)
{
    size_t ntags, nwanted;
    if (!check_positive("ways", ways) || !check_positive("unit_bytes", unit_bytes) ||
        !(c->tags = take(all, o_tags, "tags", 'q', 1, &ntags)) ||
        !(c->wanted = take(all, o_wanted, "wanted", 'B', 1, &nwanted)) ||
        !(c->units = take(all, o_units, "units", 'q', 0, &c->n)))
        return 0;
    c->ways = (size_t)ways, c->unit_bytes = (size_t)unit_bytes;
    c->nsets = ntags / c->ways;
    if (!c->nsets || !check_product("tags", ntags, c->nsets, c->ways) ||
        !check_length("wanted", nwanted, ntags)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "tags are fewer than ways, a set expected");
        return 0;
    }
    for (size_t i = 0; i < c->n; i++)
        if (c->units[i] < 0) {
            PyErr_Format(PyExc_ValueError, "unit %lld, 0 or more expected", (long long)c->units[i]);
            return 0;
        }
    return 1;
}

static int64_t find_one(const cache_t *c, size_t i)
{
    const size_t set = set_of(c, i);
    for (size_t place = set; place < set + c->ways; place++)
        if (c->tags[place] == c->units[i]) {
            /* Searches count concurrently; a lost count does no harm. */
            const uint8_t count = __atomic_load_n(c->wanted + place, __ATOMIC_RELAXED);
            if (count < MOST_WANTED)
                __atomic_store_n(c->wanted + place, count + 1, __ATOMIC_RELAXED);
            return (int64_t)(place * c->unit_bytes);
        }
    return -1;
}

static PyObject *py_find(PyObject *self, PyObject *args)
{
    Py_ssize_t ways, unit_bytes;
    PyObject *o_tags, *o_wanted, *o_units, *o_begins, *result = NULL;
    buffers_t all = {.count = 0};
    cache_t c;
    size_t nbegins;
    int64_t *begins;
    (void)self;
    if (!PyArg_ParseTuple(args, "nnOOOO:find", &ways, &unit_bytes, &o_tags, &o_wanted, &o_units,
                          &o_begins))
        return NULL;
    if (!take_cache(&c, &all, ways, unit_bytes, o_tags, o_wanted, o_units) ||
        !(begins = take(&all, o_begins, "begins", 'q', 1, &nbegins)) ||
        !check_length("begins", nbegins, c.n))
        goto done;
    Py_BEGIN_ALLOW_THREADS;
    for (size_t i = 0; i < c.n; i++) {
        if (i + AHEAD < c.n)
            __builtin_prefetch(c.tags + set_of(&c, i + AHEAD));
        begins[i] = find_one(&c, i);
    }
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

/* The place for a new unit: a free one of its set, or the one with the lowest count. If all counts are
 * above 0, each is lowered by one and -1 is returned; -1 also if the unit is already there. */
static int64_t place_for(const cache_t *c, size_t i)
{
    const size_t set = set_of(c, i), first = (size_t)c->units[i] / c->nsets;
    size_t best = set;
    int least = MOST_WANTED + 1;
    for (size_t way = 0; way < c->ways; way++) { /* from any way on, not always from the same */
        const size_t place = set + (first + way) % c->ways;
        const int wanted = c->tags[place] < 0 ? -1 : c->wanted[place];
        if (c->tags[place] == c->units[i])
            return -1;
        if (wanted < least)
            best = place, least = wanted;
    }
    if (least <= 0)
        return (int64_t)best;
    for (size_t place = set; place < set + c->ways; place++)
        c->wanted[place]--;
    return -1;
}

static PyObject *py_keep(PyObject *self, PyObject *args)
{
    Py_ssize_t ways, unit_bytes;
    PyObject *o_tags, *o_wanted, *o_units, *o_kept, *o_read, *o_begins, *result = NULL;
    buffers_t all = {.count = 0};
    cache_t c;
    size_t nkept, nread, nbegins;
    uint8_t *kept;
    const uint8_t *read;
    const int64_t *begins;
    (void)self;
    if (!PyArg_ParseTuple(args, "nnOOOOOO:keep", &ways, &unit_bytes, &o_tags, &o_wanted, &o_units,
                          &o_kept, &o_read, &o_begins))
        return NULL;
    if (!take_cache(&c, &all, ways, unit_bytes, o_tags, o_wanted, o_units) ||
        !(kept = take(&all, o_kept, "kept", 'B', 1, &nkept)) ||
        !(read = take(&all, o_read, "read", 'B', 0, &nread)) ||
        !(begins = take(&all, o_begins, "begins", 'q', 0, &nbegins)) ||
        !check_product("kept", nkept, c.nsets * c.ways, c.unit_bytes) ||
        !check_length("begins", nbegins, c.n))
        goto done;
    for (size_t i = 0; i < c.n; i++)
        if (begins[i] < 0 || nread < c.unit_bytes || (size_t)begins[i] > nread - c.unit_bytes) {
            PyErr_Format(PyExc_ValueError, "unit %zu begins at byte %lld of %zu", i,
                         (long long)begins[i], nread);
            goto done;
        }
    Py_BEGIN_ALLOW_THREADS;
    for (size_t i = 0; i < c.n; i++) {
        const int64_t place = place_for(&c, i);
        if (place < 0)
            continue;
        memcpy(kept + (size_t)place * c.unit_bytes, read + begins[i], c.unit_bytes);
        c.tags[place] = c.units[i], c.wanted[place] = 0;
    }
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ checksums */

static PyObject *py_wrong(PyObject *self, PyObject *args)
{
    Py_ssize_t page_bytes, wrong = -1;
    unsigned long long seed;
    PyObject *o_numbers, *o_read, *o_begins, *result = NULL;
    buffers_t all = {.count = 0};
    size_t n, nread, nbegins;
    const int64_t *numbers, *begins;
    const uint8_t *read;
    (void)self;
    if (!PyArg_ParseTuple(args, "nKOOO:wrong", &page_bytes, &seed, &o_numbers, &o_read,
                          &o_begins) ||
        !check_positive("page_bytes", page_bytes - XXH3_SHORT - 8))
        return NULL;
    const size_t length = (size_t)page_bytes - 8;
    if (!(numbers = take(&all, o_numbers, "numbers", 'q', 0, &n)) ||
        !(read = take(&all, o_read, "read", 'B', 0, &nread)) ||
        !(begins = take(&all, o_begins, "begins", 'q', 0, &nbegins)) ||
        !check_length("begins", nbegins, n))
        goto done;
    for (size_t i = 0; i < n; i++)
        if (begins[i] < 0 || nread < length + 8 || (size_t)begins[i] > nread - length - 8) {
            PyErr_Format(PyExc_ValueError, "page %zu begins at byte %lld of %zu", i,
                         (long long)begins[i], nread);
            goto done;
        }
    Py_BEGIN_ALLOW_THREADS;
    for (size_t i = 0; i < n && wrong < 0; i++) {
        const uint8_t *page = read + begins[i];
        if (xxh3(page, length, seed + (uint64_t)numbers[i]) != xxh3_word(page + length))
            wrong = (Py_ssize_t)i;
    }
    Py_END_ALLOW_THREADS;
    result = PyLong_FromSsize_t(wrong);
done:
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"find", py_find, METH_VARARGS, "Bytes of the cache at which units begin, -1 for none."},
    {"keep", py_keep, METH_VARARGS, "Copy units to the cache, those that there is a place for."},
    {"wrong", py_wrong, METH_VARARGS, "The first page that its checksum does not fit, or -1."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._pages", "Pages of row files; see _pages.c.", 0,
    methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__pages(void)
{
    return PyModuleDef_Init(&module);
}
