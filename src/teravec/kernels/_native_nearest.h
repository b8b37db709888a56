/* A part of _native.c: `nearest`, the centroids of lowest score, and what it works in. */

static size_t byte_places(size_t stride)
{
    return (stride + BYTE_PLACES - 1) / BYTE_PLACES * BYTE_PLACES;
}

/* The optional arguments of a search by bytes. */
static int take_bytes(buffers_t *all, nearest_t *s, PyObject *o_centroids, PyObject *o_bytes,
                      PyObject *o_bounds)
{
    bytes_t *b = &s->bytes;
    size_t ncentroids, nbytes, nbounds;
    const float *bounds;
    if (o_bytes == Py_None)
        return 1;
    if (!(b->centroids = take(all, o_centroids, "centroids", 'f', 0, &ncentroids)) ||
        !(b->bytes = take(all, o_bytes, "bytes", 'B', 0, &nbytes)) ||
        !(bounds = take(all, o_bounds, "bounds", 'f', 0, &nbounds)))
        return 0;
    b->nlist = ncentroids / s->d;
    if (!check_product("centroids", ncentroids, b->nlist, s->d) ||
        !check_product("bytes", nbytes, byte_places(s->stride), (s->d + 1) / 2 * 2) ||
        !check_length("bounds", nbounds, 4))
        return 0;
    if (b->nlist > s->stride || s->k > b->nlist) {
        PyErr_Format(PyExc_ValueError, "k is %zu, centroids are %zu, places %zu", s->k, b->nlist,
                     s->stride);
        return 0;
    }
    b->unit = bounds[0], b->missed = bounds[1], b->longest = bounds[2], b->most_half = bounds[3];
    return 1;
}

static int allocate_nearest(nearest_t *s, size_t n)
{
    /* Several rows a pass where they are many: the panels are then read less often. */
    const size_t few = n < 6 ? 6 : rows_at_once(s->stride);
    s->rows_each = n >= 24 && few < 24 ? 24 : few;
    s->capacity = 3 * s->k + 512 < s->stride ? 3 * s->k + 512 : s->stride;
    s->scores = malloc((n == 1 ? 1 : s->rows_each) * s->stride * sizeof *s->scores);
    s->buffer = malloc(s->capacity * sizeof *s->buffer);
    s->index = malloc(s->k * sizeof *s->index);
    if (s->bytes.bytes) {
        s->bytes.shorts = malloc((s->d + 1) * sizeof *s->bytes.shorts);
        s->bytes.products = malloc(byte_places(s->stride) * sizeof *s->bytes.products);
        s->bytes.lowest = malloc(s->k * sizeof *s->bytes.lowest);
    }
    const bytes_t *b = &s->bytes;
    return s->scores && s->buffer && s->index &&
           (!b->bytes || (b->shorts && b->products && b->lowest));
}

static void free_nearest(nearest_t *s)
{
    free(s->scores);
    free(s->buffer);
    free(s->index);
    free(s->bytes.shorts);
    free(s->bytes.products);
    free(s->bytes.lowest);
}

static PyObject *py_nearest(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t d, k;
    PyObject *o_x, *o_packed, *o_half, *o_centroids, *o_bytes, *o_bounds, *o_list, *o_distance,
        *result = NULL;
    buffers_t all = {.count = 0};
    nearest_t s = {0};
    size_t nx, npacked, nhalf, nlist, ndistance;
    (void)self;
    if (!PyArg_ParseTuple(args, "inniOOOOOOOO:nearest", &level, &d, &k, &s.similarity, &o_x,
                          &o_packed, &o_half, &o_centroids, &o_bytes, &o_bounds, &o_list,
                          &o_distance) ||
        !check_level(level) || !check_positive("d", d) || !check_positive("k", k))
        return NULL;
    const float *x;
    int64_t *list;
    float *distance;
    if (!(x = take(&all, o_x, "x", 'f', 0, &nx)) ||
        !(s.packed = take(&all, o_packed, "packed", 'f', 0, &npacked)) ||
        !(s.half = take(&all, o_half, "half", 'f', 0, &nhalf)) ||
        !(list = take(&all, o_list, "out_list", 'q', 1, &nlist)) ||
        !(distance = take(&all, o_distance, "out_distance", 'f', 1, &ndistance)))
        goto done;
    s.d = (size_t)d, s.k = (size_t)k, s.stride = nhalf;
    const size_t n = nx / s.d;
    if (!check_product("x", nx, n, s.d) ||
        !check_panels("packed", npacked, nhalf, s.d, panel_places(level)) ||
        !check_product("out_list", nlist, n, s.k) ||
        !check_product("out_distance", ndistance, n, s.k))
        goto done;
    if (s.k > nhalf) {
        PyErr_Format(PyExc_ValueError, "k is %zd of %zu places", k, nhalf);
        goto done;
    }
    if (!take_bytes(&all, &s, o_centroids, o_bytes, o_bounds))
        goto done;
    if (!allocate_nearest(&s, n)) {
        PyErr_NoMemory();
    } else {
        Py_BEGIN_ALLOW_THREADS;
        AT_LEVEL(level, nearest, &s, x, n, list, distance);
        Py_END_ALLOW_THREADS;
        result = Py_NewRef(Py_None);
    }
    free_nearest(&s);
done:
    release(&all);
    return result;
}
