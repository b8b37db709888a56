/* A part of _native.c: `nearest`, the centroids of lowest score, and its working memory. */

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

/* A search under way: all of its rows, and its threads. */
typedef struct {
    const nearest_t *search;
    const float *x;
    size_t n, parts;
    float unit; /* of one row's 16-bit numbers */
    int64_t *list;
    float *distance;
    ranks_t ranks[MOST_THREADS];
} rows_t;

static int allocate_ranks(const nearest_t *s, ranks_t *ranks, size_t threads)
{
    const size_t rows = s->rows_each == 1 ? 1 : (s->rows_each + 5) / 6 * 6; /* see score_rows */
    int ready = 1;
    for (size_t i = 0; i < threads; i++) {
        ranks[i].scores = malloc(rows * s->stride * sizeof *ranks->scores);
        ranks[i].buffer = malloc(s->capacity * sizeof *ranks->buffer);
        ranks[i].index = malloc(s->k * sizeof *ranks->index);
        ready &= ranks[i].scores && ranks[i].buffer && ranks[i].index;
    }
    return ready;
}

static int allocate_bytes(const nearest_t *s, bytes_t *b)
{
    b->shorts = malloc((s->d + 1) * sizeof *b->shorts);
    b->products = malloc(byte_places(s->stride) * sizeof *b->products);
    b->lowest = malloc(s->k * sizeof *b->lowest);
    return b->shorts && b->products && b->lowest;
}

static void free_nearest(nearest_t *s, ranks_t *ranks, size_t threads)
{
    for (size_t i = 0; i < threads; i++) {
        free(ranks[i].scores);
        free(ranks[i].buffer);
        free(ranks[i].index);
    }
    free(s->bytes.shorts);
    free(s->bytes.products);
    free(s->bytes.lowest);
}

/* Score one row against a part of the centroids. */
static void score_part(void *context, size_t part, size_t thread)
{
    const rows_t *all = context;
    const nearest_t *s = all->search;
    const size_t runs = (s->stride + ONE_PLACES - 1) / ONE_PLACES;
    const size_t from = runs * part / all->parts * ONE_PLACES;
    const size_t to = runs * (part + 1) / all->parts * ONE_PLACES;
    (void)thread;
    AT_LEVEL(s->level, score_places, s, all->x, all->unit, from, to < s->stride ? to : s->stride,
             all->ranks[0].scores);
}

static void rows_part(void *context, size_t part, size_t thread)
{
    const rows_t *all = context;
    const nearest_t *s = all->search;
    const size_t from = part * s->rows_each, left = all->n - from;
    AT_LEVEL(s->level, nearest_rows, s, all->ranks + thread, all->x + from * s->d,
             left < s->rows_each ? left : s->rows_each, all->list + from * s->k,
             all->distance + from * s->k);
}

/* Threads divide the centroids of a single row, or the rows of several. */
static void find_nearest(rows_t *all, size_t threads)
{
    const nearest_t *s = all->search;
    if (all->n == 1) {
        if (s->bytes.bytes)
            all->unit = AT_LEVEL(s->level, shorten, s, all->x);
        share(all->parts, threads, 1, score_part, all);
        AT_LEVEL(s->level, nearest_scored, s, all->ranks, all->x, all->unit, all->list,
                 all->distance);
    } else {
        share(all->parts, threads, all->n * s->stride * s->d < BRIEF, rows_part, all);
    }
}

/* Rows of a part. With many rows a part has several, so that panels are read less often, but few
 * enough that all threads have some. */
static size_t rows_of_part(const nearest_t *s, size_t n, size_t threads)
{
    const size_t few = rows_at_once(s->stride), most = few < 24 ? 24 : few;
    const size_t each = (n + threads - 1) / threads;
    return each < most ? each : most;
}

static int nearest(nearest_t *s, const float *x, size_t n, size_t threads, int64_t *list,
                   float *distance)
{
    rows_t all = {.search = s, .x = x, .n = n, .list = list, .distance = distance};
    if (!n)
        return 1;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    s->rows_each = rows_of_part(s, n, threads);
    s->capacity = 3 * s->k + 512 < s->stride ? 3 * s->k + 512 : s->stride;
    if (n == 1) {
        const size_t runs = (s->stride + ONE_PLACES - 1) / ONE_PLACES;
        all.parts = runs < 2 * threads ? runs : 2 * threads;
    } else {
        all.parts = (n + s->rows_each - 1) / s->rows_each;
    }
    threads = threads < all.parts ? threads : all.parts;
    const size_t ranks = n == 1 ? 1 : threads;
    const int ready =
        allocate_ranks(s, all.ranks, ranks) && (!s->bytes.bytes || allocate_bytes(s, &s->bytes));
    if (ready) {
        Py_BEGIN_ALLOW_THREADS;
        find_nearest(&all, threads);
        Py_END_ALLOW_THREADS;
    } else {
        PyErr_NoMemory();
    }
    free_nearest(s, all.ranks, ranks);
    return ready;
}

static PyObject *py_nearest(PyObject *self, PyObject *args)
{
    Py_ssize_t d, k, threads;
    PyObject *o_x, *o_packed, *o_half, *o_centroids, *o_bytes, *o_bounds, *o_list, *o_distance,
        *result = NULL;
    buffers_t all = {.count = 0};
    nearest_t s = {0};
    size_t nx, npacked, nhalf, nlist, ndistance;
    (void)self;
    if (!PyArg_ParseTuple(args, "inninOOOOOOOO:nearest", &s.level, &d, &k, &s.similarity, &threads, &o_x,
                          &o_packed, &o_half, &o_centroids, &o_bytes, &o_bounds, &o_list,
                          &o_distance) ||
        !check_level(s.level) || !check_positive("d", d) || !check_positive("k", k) ||
        !check_positive("threads", threads))
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
        !check_panels("packed", npacked, nhalf, s.d, panel_places(s.level)) ||
        !check_product("out_list", nlist, n, s.k) ||
        !check_product("out_distance", ndistance, n, s.k))
        goto done;
    if (s.k > nhalf) {
        PyErr_Format(PyExc_ValueError, "k is %zd of %zu places", k, nhalf);
        goto done;
    }
    if (!take_bytes(&all, &s, o_centroids, o_bytes, o_bounds))
        goto done;
    if (n > 1)
        s.bytes.bytes = NULL;
    if (nearest(&s, x, n, (size_t)threads, list, distance))
        result = Py_NewRef(Py_None);
done:
    release(&all);
    return result;
}
