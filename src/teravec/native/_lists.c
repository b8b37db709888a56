/* teravec.native._lists: a search's bookkeeping of lists, fast for few lists in particular.
 *
 * Each function replaces some ten calls of NumPy. One call of NumPy takes as long as comparing a query
 * with a hundred codes, so for a lone query these calls would be most of the work.
 */
#include "_native_common.h"
#include "_native_select.h"

/* A place names a vector: list number << PLACE_BITS | row within the list. */
enum { PLACE_BITS = 32, ID_BYTES = 8, MOST_WANTED = 15 };
#define NOT_KEPT ((int64_t)-2) /* no id, as ids are from 0, and none is -1 */

/* ------------------------------------------------------------------ pairs */

typedef struct {
    size_t n, nprobe, nlist;
    const int64_t *list_nos, *sizes; /* sizes NULL: any list is worth a visit */
    const float *distances;
    int64_t *out_list_nos, *out_starts;
    int32_t *out_queries;
    float *out_distances;
    uint8_t *out_nearest;
} pairs_t;

/* Write pairs as keys, list above and position below. Returns their number, or -1 for an invalid list
 * number. */
static Py_ssize_t sorted_pairs(const pairs_t *p, uint64_t *keys)
{
    size_t count = 0;
    for (size_t i = 0; i < p->n; i++) {
        const int64_t list_no = p->list_nos[i];
        if (list_no < 0)
            continue;
        if (list_no > INT32_MAX || (p->sizes && (size_t)list_no >= p->nlist))
            return -1;
        keys[count] = (uint64_t)list_no << 32 | i;
        count += !p->sizes || p->sizes[list_no] > 0;
    }
    sort_keys(keys, count);
    return (Py_ssize_t)count;
}

/* Returns the number of distinct lists. */
static size_t write_pairs(const pairs_t *p, const uint64_t *keys, size_t count)
{
    size_t lists = 0;
    for (size_t i = 0; i < count; i++) {
        const int64_t list_no = (int64_t)(keys[i] >> 32);
        const size_t at = (size_t)(uint32_t)keys[i];
        if (!i || p->out_list_nos[lists - 1] != list_no) {
            p->out_list_nos[lists] = list_no;
            p->out_starts[lists++] = (int64_t)i;
        }
        p->out_queries[i] = (int32_t)(at / p->nprobe);
        p->out_distances[i] = p->distances[at];
        p->out_nearest[i] = at % p->nprobe == 0;
    }
    p->out_starts[lists] = (int64_t)count;
    return lists;
}

static PyObject *py_pairs(PyObject *self, PyObject *args)
{
    Py_ssize_t nprobe, count = -1;
    PyObject *o_list_nos, *o_distances, *o_sizes, *o_out_list_nos, *o_out_starts, *o_out_queries,
        *o_out_distances, *o_out_nearest, *result = NULL;
    buffers_t all = {.count = 0};
    size_t ndistances, nlists, nstarts, nqueries, nout, nnearest, lists = 0;
    pairs_t p = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "nOOOOOOOO:pairs", &nprobe, &o_list_nos, &o_distances, &o_sizes,
                          &o_out_list_nos, &o_out_starts, &o_out_queries, &o_out_distances,
                          &o_out_nearest) ||
        !check_positive("nprobe", nprobe))
        return NULL;
    p.nprobe = (size_t)nprobe;
    if (!(p.list_nos = take(&all, o_list_nos, "list_nos", 'q', 0, &p.n)) ||
        !(p.distances = take(&all, o_distances, "distances", 'f', 0, &ndistances)) ||
        (o_sizes != Py_None && !(p.sizes = take(&all, o_sizes, "sizes", 'q', 0, &p.nlist))) ||
        !(p.out_list_nos = take(&all, o_out_list_nos, "out_list_nos", 'q', 1, &nlists)) ||
        !(p.out_starts = take(&all, o_out_starts, "out_starts", 'q', 1, &nstarts)) ||
        !(p.out_queries = take(&all, o_out_queries, "out_queries", 'i', 1, &nqueries)) ||
        !(p.out_distances = take(&all, o_out_distances, "out_distances", 'f', 1, &nout)) ||
        !(p.out_nearest = take(&all, o_out_nearest, "out_nearest", 'B', 1, &nnearest)) ||
        !check_length("distances", ndistances, p.n) ||
        !check_length("out_list_nos", nlists, p.n) ||
        !check_length("out_starts", nstarts, p.n + 1) ||
        !check_length("out_queries", nqueries, p.n) || !check_length("out_distances", nout, p.n) ||
        !check_length("out_nearest", nnearest, p.n))
        goto done;
    uint64_t *keys = p.n > UINT32_MAX ? NULL : malloc(8 * p.n + 8);
    if (!keys) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    count = sorted_pairs(&p, keys);
    if (count >= 0)
        lists = write_pairs(&p, keys, (size_t)count);
    Py_END_ALLOW_THREADS;
    free(keys);
    if (count < 0)
        PyErr_Format(PyExc_ValueError, "a list number is not below %zu", p.nlist);
    else
        result = Py_BuildValue("nn", (Py_ssize_t)lists, count);
done:
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ runs of lists */

/* The runs of lists, list after list: layer * nlist + list, those that have vectors. */
static PyObject *py_runs(PyObject *self, PyObject *args)
{
    Py_ssize_t nlist, count = 0;
    PyObject *o_sizes, *o_list_nos, *o_runs, *o_lists, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nsizes, n, nruns, nlists;
    const int64_t *sizes, *list_nos;
    int64_t *runs, *lists;
    (void)self;
    if (!PyArg_ParseTuple(args, "nOOOO:runs", &nlist, &o_sizes, &o_list_nos, &o_runs, &o_lists) ||
        !check_positive("nlist", nlist))
        return NULL;
    if (!(sizes = take(&all, o_sizes, "sizes", 'q', 0, &nsizes)) ||
        !(list_nos = take(&all, o_list_nos, "list_nos", 'q', 0, &n)) ||
        !(runs = take(&all, o_runs, "out_runs", 'q', 1, &nruns)) ||
        !(lists = take(&all, o_lists, "out_list_nos", 'q', 1, &nlists)) ||
        !check_product("sizes", nsizes, nsizes / (size_t)nlist, (size_t)nlist) ||
        !check_length("out_runs", nruns, n * (nsizes / (size_t)nlist)) ||
        !check_length("out_list_nos", nlists, nruns))
        goto done;
    for (size_t i = 0; i < n; i++) {
        if (list_nos[i] < 0 || list_nos[i] >= nlist) {
            PyErr_Format(PyExc_ValueError, "list %lld of %zd", (long long)list_nos[i], nlist);
            goto done;
        }
        for (size_t run = (size_t)list_nos[i]; run < nsizes; run += (size_t)nlist)
            if (sizes[run]) {
                runs[count] = (int64_t)run;
                lists[count++] = list_nos[i];
            }
    }
    result = PyLong_FromSsize_t(count);
done:
    release(&all);
    return result;
}

/* Where the pairs of wanted lists begin, which ascend and may repeat; returns 0 for a list that has
 * none. */
static int find_starts(const int64_t *list_nos, const int64_t *starts, size_t n,
                       const int64_t *wanted, size_t nwanted, int64_t *out)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < nwanted; i++) {
        while (at < n && list_nos[at] < wanted[i])
            at++;
        if (at == n || list_nos[at] != wanted[i])
            return 0;
        out[i + 1] = out[i] + starts[at + 1] - starts[at];
    }
    return 1;
}

static PyObject *py_repeat_pairs(PyObject *self, PyObject *args)
{
    PyObject *o_list_nos, *o_starts, *o_queries, *o_distances, *o_nearest, *o_wanted, *o_out_starts,
        *o_out_queries, *o_out_distances, *o_out_nearest, *result = NULL;
    buffers_t all = {.count = 0};
    size_t n, nstarts, npairs, ndistances, nnearest, nwanted, nout, nq, nd, nn;
    const int64_t *list_nos, *starts, *wanted;
    const int32_t *queries;
    const float *distances;
    const uint8_t *nearest;
    int64_t *out;
    int32_t *out_queries;
    float *out_distances;
    uint8_t *out_nearest;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOOOOOOO:repeat_pairs", &o_list_nos, &o_starts, &o_queries,
                          &o_distances, &o_nearest, &o_wanted, &o_out_starts, &o_out_queries,
                          &o_out_distances, &o_out_nearest))
        return NULL;
    if (!(list_nos = take(&all, o_list_nos, "list_nos", 'q', 0, &n)) ||
        !(starts = take(&all, o_starts, "starts", 'q', 0, &nstarts)) ||
        !(queries = take(&all, o_queries, "queries", 'i', 0, &npairs)) ||
        !(distances = take(&all, o_distances, "distances", 'f', 0, &ndistances)) ||
        !(nearest = take(&all, o_nearest, "nearest", 'B', 0, &nnearest)) ||
        !(wanted = take(&all, o_wanted, "wanted", 'q', 0, &nwanted)) ||
        !(out = take(&all, o_out_starts, "out_starts", 'q', 1, &nout)) ||
        !(out_queries = take(&all, o_out_queries, "out_queries", 'i', 1, &nq)) ||
        !(out_distances = take(&all, o_out_distances, "out_distances", 'f', 1, &nd)) ||
        !(out_nearest = take(&all, o_out_nearest, "out_nearest", 'B', 1, &nn)) ||
        !check_length("starts", nstarts, n + 1) || !check_length("distances", ndistances, npairs) ||
        !check_length("nearest", nnearest, npairs) ||
        !check_length("out_starts", nout, nwanted + 1) || !check_length("out_distances", nd, nq) ||
        !check_length("out_nearest", nn, nq))
        goto done;
    for (size_t i = 0; i < nstarts; i++)
        if (starts[i] < (i ? starts[i - 1] : 0) || (size_t)starts[i] > npairs) {
            PyErr_Format(PyExc_ValueError, "start %lld of %zu pairs", (long long)starts[i], npairs);
            goto done;
        }
    if (!find_starts(list_nos, starts, n, wanted, nwanted, out)) {
        PyErr_SetString(PyExc_ValueError, "a list without pairs");
        goto done;
    }
    if (out[nwanted] <= (int64_t)nq) /* else the caller makes room, and calls again */
        for (size_t i = 0, at = 0; i < nwanted; i++) {
            while (list_nos[at] < wanted[i])
                at++;
            const size_t from = (size_t)starts[at], to = (size_t)out[i],
                         count = (size_t)(out[i + 1] - out[i]);
            memcpy(out_queries + to, queries + from, count * sizeof(*queries));
            memcpy(out_distances + to, distances + from, count * sizeof(*distances));
            memcpy(out_nearest + to, nearest + from, count);
        }
    result = PyLong_FromLongLong(out[nwanted]);
done:
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ kept lists */

static int check_keys(const int64_t *keys, size_t n, size_t nkeys)
{
    for (size_t i = 0; i < n; i++)
        if (keys[i] < 0 || (size_t)keys[i] >= nkeys) {
            PyErr_Format(PyExc_ValueError, "key %lld of %zu", (long long)keys[i], nkeys);
            return 0;
        }
    return 1;
}

static void count_wanted(uint8_t *wanted, size_t key)
{
    wanted[key] = (uint8_t)(wanted[key] + (wanted[key] < MOST_WANTED));
}

static PyObject *py_pin(PyObject *self, PyObject *args)
{
    PyObject *o_keys, *o_at, *o_wanted, *o_pins, *o_out, *result = NULL;
    buffers_t all = {.count = 0};
    size_t n, nkeys, nwanted, npins, nout;
    const int64_t *keys, *at;
    uint8_t *wanted;
    int32_t *pins;
    int64_t *out;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOO:pin", &o_keys, &o_at, &o_wanted, &o_pins, &o_out))
        return NULL;
    if (!(keys = take(&all, o_keys, "keys", 'q', 0, &n)) ||
        !(at = take(&all, o_at, "at", 'q', 0, &nkeys)) ||
        !(wanted = take(&all, o_wanted, "wanted", 'B', 1, &nwanted)) ||
        !(pins = take(&all, o_pins, "pins", 'i', 1, &npins)) ||
        !(out = take(&all, o_out, "out_at", 'q', 1, &nout)) ||
        !check_length("wanted", nwanted, nkeys) || !check_length("pins", npins, nkeys) ||
        !check_length("out_at", nout, n) || !check_keys(keys, n, nkeys))
        goto done;
    for (size_t i = 0; i < n; i++) {
        const size_t key = (size_t)keys[i];
        out[i] = at[key];
        count_wanted(wanted, key);
        pins[key] += at[key] >= 0;
    }
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

static PyObject *py_unpin(PyObject *self, PyObject *args)
{
    PyObject *o_keys, *o_pins, *result = NULL;
    buffers_t all = {.count = 0};
    size_t n, nkeys;
    const int64_t *keys;
    int32_t *pins;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO:unpin", &o_keys, &o_pins))
        return NULL;
    if (!(keys = take(&all, o_keys, "keys", 'q', 0, &n)) ||
        !(pins = take(&all, o_pins, "pins", 'i', 1, &nkeys)) || !check_keys(keys, n, nkeys))
        goto done;
    for (size_t i = 0; i < n; i++)
        pins[keys[i]]--;
    result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}

/* Count each list of the places once; returns their number. `seen` has a bit for each list. */
static size_t count_lists(const int64_t *places, size_t n, size_t first_key, uint8_t *wanted,
                          uint8_t *seen)
{
    size_t counted = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t list_no = (size_t)places[i] >> PLACE_BITS;
        const uint8_t bit = (uint8_t)(1 << list_no % 8);
        if (places[i] < 0 || seen[list_no / 8] & bit)
            continue;
        seen[list_no / 8] |= bit;
        count_wanted(wanted, first_key + list_no);
        counted++;
    }
    return counted;
}

static PyObject *py_ids(PyObject *self, PyObject *args)
{
    Py_ssize_t first, missing = 0, counted = 0, wrong = -1;
    PyObject *o_places, *o_at, *o_size, *o_wanted, *o_buffer, *o_out, *result = NULL;
    buffers_t all = {.count = 0};
    size_t n, nkeys, nsize, nwanted, nbuffer, nout;
    const int64_t *places, *at, *size;
    const uint8_t *buffer;
    uint8_t *wanted;
    int64_t *out;
    (void)self;
    if (!PyArg_ParseTuple(args, "nOOOOOO:ids", &first, &o_places, &o_at, &o_size, &o_wanted,
                          &o_buffer, &o_out))
        return NULL;
    if (!(places = take(&all, o_places, "places", 'q', 0, &n)) ||
        !(at = take(&all, o_at, "at", 'q', 0, &nkeys)) ||
        !(size = take(&all, o_size, "size", 'q', 0, &nsize)) ||
        !(wanted = take(&all, o_wanted, "wanted", 'B', 1, &nwanted)) ||
        !(buffer = take(&all, o_buffer, "buffer", 'B', 0, &nbuffer)) ||
        !(out = take(&all, o_out, "out_ids", 'q', 1, &nout)) ||
        !check_length("size", nsize, nkeys) || !check_length("wanted", nwanted, nkeys) ||
        !check_length("out_ids", nout, n))
        goto done;
    if (first < 0 || (size_t)first > nkeys) {
        PyErr_Format(PyExc_ValueError, "first key %zd of %zu", first, nkeys);
        goto done;
    }
    uint8_t *seen = calloc((nkeys - (size_t)first) / 8 + 1, 1);
    if (!seen) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    for (size_t i = 0; i < n && wrong < 0; i++) {
        const size_t list_no = (size_t)places[i] >> PLACE_BITS, row = (size_t)(uint32_t)places[i];
        out[i] = -1;
        if (places[i] < 0)
            continue;
        if (list_no >= nkeys - (size_t)first) {
            wrong = (Py_ssize_t)i;
            break;
        }
        const size_t key = (size_t)first + list_no;
        if (at[key] < 0) {
            out[i] = NOT_KEPT;
            missing++;
        } else if ((row + 1) * ID_BYTES > (size_t)size[key] || (size_t)size[key] > nbuffer ||
                   (size_t)at[key] > nbuffer - (size_t)size[key]) {
            wrong = (Py_ssize_t)i;
        } else {
            memcpy(out + i, buffer + at[key] + row * ID_BYTES, ID_BYTES);
        }
    }
    if (wrong < 0)
        counted = (Py_ssize_t)count_lists(places, n, (size_t)first, wanted, seen);
    Py_END_ALLOW_THREADS;
    free(seen);
    if (wrong >= 0)
        PyErr_Format(PyExc_ValueError, "place %zd: row %lld of list %lld", wrong,
                     (long long)(places[wrong] & UINT32_MAX),
                     (long long)(places[wrong] >> PLACE_BITS));
    else
        result = Py_BuildValue("nn", missing, counted);
done:
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ queries and their lists */

/* Sums of squares in float64, where squares of float32 cannot overflow. */
static double longest_square(const float *x, size_t n, size_t d)
{
    double longest = 0;
    for (size_t i = 0; i < n; i++, x += d) {
        double sums[4] = {0};
        for (size_t k = 0; k < d; k++)
            sums[k % 4] += (double)x[k] * x[k];
        const double square = sums[0] + sums[1] + sums[2] + sums[3];
        if (!isfinite(square))
            return INFINITY;
        longest = square > longest ? square : longest;
    }
    return longest;
}

static PyObject *py_longest(PyObject *self, PyObject *args)
{
    Py_ssize_t d;
    PyObject *o_x, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nx;
    const float *x;
    double longest;
    (void)self;
    if (!PyArg_ParseTuple(args, "nO:longest", &d, &o_x) || !check_positive("d", d))
        return NULL;
    if (!(x = take(&all, o_x, "x", 'f', 0, &nx)) ||
        !check_product("x", nx, nx / (size_t)d, (size_t)d))
        goto done;
    Py_BEGIN_ALLOW_THREADS;
    longest = longest_square(x, nx / (size_t)d, (size_t)d);
    Py_END_ALLOW_THREADS;
    result = PyFloat_FromDouble(longest);
done:
    release(&all);
    return result;
}

#define LANES 4 /* of the baseline's registers */
typedef float floats_t __attribute__((vector_size(4 * LANES)));
typedef int32_t bits_t __attribute__((vector_size(4 * LANES)));

/* Up to LANES of n floats; 0 after the last. */
static floats_t some_floats(const float *x, size_t n)
{
    floats_t values = {0};
    if (n >= LANES)
        memcpy(&values, x, sizeof(values));
    else
        memcpy(&values, x, n * sizeof(*x));
    return values;
}

/* Count rows of x whose residual lies outside of the box of half sizes `half` around `middle`: its
 * squared distance from the box is above `most`, and above a share of its own square. The sums of a
 * row have a fixed order. */
static size_t clipped(const float *x, size_t n, size_t d, const int *list_no,
                      const float *centroids, const float *middle, const float *half, float most,
                      float share)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++, x += d) {
        const float *c = centroids + (size_t)list_no[i] * d;
        floats_t beyond = {0}, squares = {0};
        float outside = 0, square = 0;
        for (size_t k = 0; k < d; k += LANES) {
            const floats_t r = some_floats(x + k, d - k) - some_floats(c + k, d - k);
            const floats_t from = r - some_floats(middle + k, d - k);
            const floats_t b = (floats_t)((bits_t)from & INT32_MAX) - some_floats(half + k, d - k);
            const floats_t twice = b + (floats_t)((bits_t)b & INT32_MAX); /* 0 inside of the box */
            beyond += twice * twice;
            squares += r * r;
        }
        for (size_t j = 0; j < LANES; j++)
            outside += beyond[j], square += squares[j];
        outside /= 4;
        count += outside > most && outside > share * square;
    }
    return count;
}

static PyObject *py_clipped(PyObject *self, PyObject *args)
{
    Py_ssize_t d;
    float most, share;
    PyObject *o_x, *o_lists, *o_centroids, *o_middle, *o_half, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nx, n, ncentroids, nmiddle, nhalf, found;
    const float *x, *centroids, *middle, *half;
    const int *lists;
    (void)self;
    if (!PyArg_ParseTuple(args, "nOOOOOff:clipped", &d, &o_x, &o_lists, &o_centroids, &o_middle,
                          &o_half, &most, &share) ||
        !check_positive("d", d))
        return NULL;
    if (!(x = take(&all, o_x, "x", 'f', 0, &nx)) ||
        !(lists = take(&all, o_lists, "lists", 'i', 0, &n)) ||
        !(centroids = take(&all, o_centroids, "centroids", 'f', 0, &ncentroids)) ||
        !(middle = take(&all, o_middle, "middle", 'f', 0, &nmiddle)) ||
        !(half = take(&all, o_half, "half", 'f', 0, &nhalf)) ||
        !check_product("x", nx, n, (size_t)d) || !check_product("middle", nmiddle, 1, (size_t)d) ||
        !check_product("half", nhalf, 1, (size_t)d) ||
        !check_product("centroids", ncentroids, ncentroids / (size_t)d, (size_t)d))
        goto done;
    for (size_t i = 0; i < n; i++)
        if (lists[i] < 0 || (size_t)lists[i] >= ncentroids / (size_t)d) {
            PyErr_Format(PyExc_ValueError, "list %d of %zu", lists[i], ncentroids / (size_t)d);
            goto done;
        }
    Py_BEGIN_ALLOW_THREADS;
    found = clipped(x, n, (size_t)d, lists, centroids, middle, half, most, share);
    Py_END_ALLOW_THREADS;
    result = PyLong_FromSize_t(found);
done:
    release(&all);
    return result;
}

/* Number of lists that a query visits, in order of rank; the same arithmetic as in probing.py. */
static size_t worth_visiting(const float *distances, const float *allowed, size_t n, float prune,
                             const float *length)
{
    size_t visited = 1;
    while (visited < n) {
        float gap = distances[visited] - distances[0];
        if (length)
            gap = -gap;
        gap = gap > 0 ? gap : 0;
        if (length)
            gap /= *length;
        if (!(prune * gap <= allowed[visited]))
            break;
        visited++;
    }
    return visited;
}

static PyObject *py_worth_visiting(PyObject *self, PyObject *args)
{
    float prune;
    PyObject *o_distances, *o_allowed, *o_lengths, *o_counts, *result = NULL;
    buffers_t all = {.count = 0};
    size_t ndistances, n, nlengths, nq;
    const float *distances, *allowed, *lengths = NULL;
    int64_t *counts, most = 1;
    (void)self;
    if (!PyArg_ParseTuple(args, "fOOOO:worth_visiting", &prune, &o_distances, &o_allowed,
                          &o_lengths, &o_counts))
        return NULL;
    if (!(distances = take(&all, o_distances, "distances", 'f', 0, &ndistances)) ||
        !(allowed = take(&all, o_allowed, "allowed", 'f', 0, &n)) ||
        !(counts = take(&all, o_counts, "out_counts", 'q', 1, &nq)) ||
        !check_product("distances", ndistances, nq, n))
        goto done;
    if (o_lengths != Py_None && (!(lengths = take(&all, o_lengths, "lengths", 'f', 0, &nlengths)) ||
                                 !check_length("lengths", nlengths, nq)))
        goto done;
    for (size_t i = 0; n && i < nq; i++) {
        counts[i] = (int64_t)worth_visiting(distances + i * n, allowed, n, prune,
                                            lengths ? lengths + i : NULL);
        most = counts[i] > most ? counts[i] : most;
    }
    result = PyLong_FromLongLong(most);
done:
    release(&all);
    return result;
}

/* ------------------------------------------------------------------ ranks of ids */

/* The first column of each wanted id in its own row of names, m if it is not there; -1 never is. One row
 * of names at a time lies in a table of 2^bits slots, which hold columns from 1. */
static void row_ranks(const int64_t *wanted, size_t k, const int64_t *names, size_t m, uint32_t *table,
                      int bits, int64_t *ranks)
{
    const size_t mask = ((size_t)1 << bits) - 1;
    memset(table, 0, (mask + 1) * sizeof *table);
#define SLOT(id) ((size_t)((uint64_t)(id) * UINT64_C(0x9e3779b97f4a7c15) >> (64 - bits)))
    for (size_t j = 0; j < m; j++) {
        size_t at = SLOT(names[j]);
        while (table[at] && names[table[at] - 1] != names[j])
            at = (at + 1) & mask;
        if (!table[at])
            table[at] = (uint32_t)j + 1;
    }
    for (size_t j = 0; j < k; j++) {
        size_t at = SLOT(wanted[j]);
        while (table[at] && names[table[at] - 1] != wanted[j])
            at = (at + 1) & mask;
        ranks[j] = table[at] && wanted[j] != -1 ? (int64_t)table[at] - 1 : (int64_t)m;
    }
#undef SLOT
}

static PyObject *py_ranks(PyObject *self, PyObject *args)
{
    Py_ssize_t k, m;
    PyObject *o_wanted, *o_names, *o_ranks, *result = NULL;
    buffers_t all = {.count = 0};
    size_t nwanted, nnames, nranks;
    const int64_t *wanted, *names;
    int64_t *ranks;
    uint32_t *table = NULL;
    int bits = 1;
    (void)self;
    if (!PyArg_ParseTuple(args, "nnOOO:ranks", &k, &m, &o_wanted, &o_names, &o_ranks) ||
        !check_positive("k", k) || !check_positive("m", m))
        return NULL;
    if (!(wanted = take(&all, o_wanted, "wanted", 'q', 0, &nwanted)) ||
        !(names = take(&all, o_names, "names", 'q', 0, &nnames)) ||
        !(ranks = take(&all, o_ranks, "out_ranks", 'q', 1, &nranks)) ||
        !check_product("wanted", nwanted, nwanted / (size_t)k, (size_t)k) ||
        !check_product("names", nnames, nwanted / (size_t)k, (size_t)m) ||
        !check_length("out_ranks", nranks, nwanted))
        goto done;
    while ((size_t)1 << bits < 2 * (size_t)m) /* at most half full */
        bits++;
    table = (size_t)m > INT32_MAX ? NULL : malloc(sizeof *table << bits);
    if (!table) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS;
    for (size_t i = 0; i < nwanted / (size_t)k; i++)
        row_ranks(wanted + i * (size_t)k, (size_t)k, names + i * (size_t)m, (size_t)m, table, bits,
                  ranks + i * (size_t)k);
    Py_END_ALLOW_THREADS;
    result = Py_NewRef(Py_None);
done:
    free(table);
    release(&all);
    return result;
}

static PyMethodDef methods[] = {
    {"pairs", py_pairs, METH_VARARGS,
     "pairs(nprobe, list_nos, distances, sizes or None, out_list_nos, out_starts, out_queries,\n"
     "      out_distances, out_nearest) -> (lists, pairs)\n\nSee pairs.py; how much is filled."},
    {"runs", py_runs, METH_VARARGS,
     "runs(nlist, sizes, list_nos, out_runs, out_list_nos) -> int\n\nSee Runs; how much is filled."},
    {"repeat_pairs", py_repeat_pairs, METH_VARARGS,
     "repeat_pairs(list_nos, starts, queries, distances, nearest, wanted, out_starts, out_queries,\n"
     "             out_distances, out_nearest) -> pairs\n\n"
     "See Pairs.of_lists. Where more pairs than fit are there, only out_starts is filled."},
    {"pin", py_pin, METH_VARARGS,
     "pin(keys, at, wanted, pins, out_at)\n\nSee ListCache.pin; the caller has its lock."},
    {"unpin", py_unpin, METH_VARARGS, "unpin(keys, pins)\n\nSee ListCache.unpin."},
    {"ids", py_ids, METH_VARARGS,
     "ids(first_key, places, at, size, wanted, buffer, out_ids) -> (missing, lists)\n\n"
     "See ListCache.ids; the caller has its lock."},
    {"clipped", py_clipped, METH_VARARGS,
     "clipped(d, x, lists, centroids, middle, half, most, share) -> int\n\nSee clipping.ScalarRange."},
    {"longest", py_longest, METH_VARARGS,
     "longest(d, x) -> float\n\nSee metric.longest_square."},
    {"worth_visiting", py_worth_visiting, METH_VARARGS,
     "worth_visiting(prune, distances, allowed, lengths or None, out_counts) -> int\n\n"
     "See probing.prune_lists; lengths are there for inner products. The most of all counts."},
    {"ranks", py_ranks, METH_VARARGS,
     "ranks(k, m, wanted, names, out_ranks)\n\nSee lists.ranks; rows of k wanted ids and m names."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "teravec.native._lists", "Bookkeeping of lists; see _lists.c.", 0,
    methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__lists(void)
{
    return PyModuleDef_Init(&module);
}
