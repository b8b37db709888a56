/* Scanning sketches of lists on several threads; for _sketch.c. */

/* Runs of lists in memory. pair_queries[pair_starts[i]..pair_starts[i + 1]] are the queries that visit the
 * list of run i. */
typedef struct {
    const float *queries, *centroids, *coarse;
    const int64_t *pair_starts, *list_nos, *sizes, *offsets;
    const int32_t *pair_queries;
    const uint8_t *pair_nearest, *codes;
    runs_t runs;
    size_t nq, nlist, npairs, nlists, bytes, capacity;
    int64_t row_start;
    candidate_t *kept; /* nq rows of 2 * capacity */
    int64_t *counts;
    float *limits; /* of what may be kept; threads lower them */
} scan_t;

/* The work of all threads. With fewer queries than threads, threads divide the codes: the first thread
 * uses the result's candidates, and each other thread has its own. Otherwise threads divide the
 * queries, so a batch's candidates exist once. */
typedef struct {
    const sketch_t *sketch;
    const scan_t *scan;
    turns_t turns;
    int by_codes;
    size_t parts, threads;
    scratch_t *scratch;  /* of each thread */
    candidate_t *others; /* (threads - 1, nq, 2 * capacity) */
    int64_t *counts;     /* (threads - 1, nq) */
} shares_t;

static int check_scan(const sketch_t *s, const scan_t *w)
{
    for (size_t i = 0; i < w->nlists; i++) {
        size_t length, end;
        if (w->list_nos[i] < 0 || (size_t)w->list_nos[i] >= w->nlist || w->sizes[i] < 0 ||
            w->offsets[i] < 0 || w->pair_starts[i] < 0 ||
            w->pair_starts[i] > w->pair_starts[i + 1] ||
            __builtin_mul_overflow((size_t)w->sizes[i], s->code_size, &length) ||
            __builtin_add_overflow((size_t)w->offsets[i], length, &end) || end > w->bytes)
            return 0;
    }
    if (w->nlists && (size_t)w->pair_starts[w->nlists] > w->npairs)
        return 0;
    for (size_t i = 0; i < w->npairs; i++)
        if (w->pair_queries[i] < 0 || (size_t)w->pair_queries[i] >= w->nq)
            return 0;
    for (size_t i = 0; i < w->nq; i++)
        if (w->counts[i] < 0 || (size_t)w->counts[i] > w->capacity)
            return 0;
    return 1;
}

static int64_t *count_of(const shares_t *all, size_t thread, size_t query)
{
    if (!all->by_codes || !thread)
        return all->scan->counts + query;
    return all->counts + (thread - 1) * all->scan->nq + query;
}

/* A thread's candidates of a query. */
static kept_t kept_of(const shares_t *all, size_t thread, size_t query)
{
    const scan_t *w = all->scan;
    candidate_t *items = w->kept;
    if (all->by_codes && thread)
        items = all->others + (thread - 1) * w->nq * 2 * w->capacity;
    return (kept_t){items + query * 2 * w->capacity, all->scratch[thread].keys,
                    (size_t)*count_of(all, thread, query), w->capacity,
                    limit_at(w->limits + query)};
}

static void put_back(const shares_t *all, size_t thread, size_t query, const kept_t *kept)
{
    *count_of(all, thread, query) = (int64_t)kept->count;
    lower_limit(all->scan->limits + query, kept->limit);
}

/* Scan codes of one list for `nv` pairs, of which views were made. */
static void scan_codes(const shares_t *all, size_t thread, const run_t *run, const size_t *pairs,
                       size_t nv)
{
    const sketch_t *s = all->sketch;
    const scan_t *w = all->scan;
    scratch_t *x = all->scratch + thread;
    const uint8_t *codes = w->codes + w->offsets[run->list];
    const uint8_t *visible = bits_of(&w->runs, run->list);
    const int64_t place = (w->runs.numbers[run->list] << 32) + w->row_start;
    for (size_t row = run->row; row < run->stop;) {
        if (visible) {
            make_visible_block(s, &x->block, codes, visible, (size_t)w->row_start, &row, run->stop);
        } else {
            make_block(s, &x->block, codes, row, at_most(run->stop - row, BLOCK));
            row += x->block.count;
        }
        block_estimates(s, x->views, nv, &x->block, x->estimates);
        for (size_t j = 0; j < nv; j++) {
            const size_t query = (size_t)w->pair_queries[pairs[j]];
            kept_t kept = kept_of(all, thread, query);
            keep_block(s, x->views + j, &x->block, x->estimates + j * BLOCK, place,
                       &kept);
            put_back(all, thread, query, &kept);
        }
    }
}

/* Scan codes of one list for those of queries [start, stop) that visit it in this turn. */
static void scan_run(const shares_t *all, size_t thread, const run_t *run, size_t start, size_t stop)
{
    const sketch_t *s = all->sketch;
    const scan_t *w = all->scan;
    scratch_t *x = all->scratch + thread;
    const float *centroid = w->centroids + (size_t)w->list_nos[run->list] * s->d;
    const size_t end = (size_t)w->pair_starts[run->list + 1];
    const uint8_t *visible = bits_of(&w->runs, run->list);
    size_t pairs[VIEWS], nv = 0;
    if (visible && !any_row(visible, (size_t)w->row_start, run->row, run->stop))
        return;
    for (size_t pair = (size_t)w->pair_starts[run->list]; pair < end; pair++) {
        const size_t query = (size_t)w->pair_queries[pair];
        if (!!w->pair_nearest[pair] != run->nearest || query < start || query >= stop)
            continue;
        make_view(s, x->views + nv, x->values, w->queries + query * s->d,
                  s->similarity ? NULL : centroid, w->coarse[pair]);
        pairs[nv++] = pair;
        if (nv == VIEWS) {
            scan_codes(all, thread, run, pairs, nv);
            nv = 0;
        }
    }
    if (nv)
        scan_codes(all, thread, run, pairs, nv);
}

/* Merge all threads' candidates of a query, and drop all but the lowest. */
static void finish(const shares_t *all, size_t thread, size_t query)
{
    kept_t kept = kept_of(all, thread, query);
    for (size_t other = 1; all->by_codes && other < all->threads; other++) {
        kept_t more = kept_of(all, other, query);
        drop_others(&more);
        for (size_t i = 0; i < more.count; i++)
            keep(&kept, more.items[i].estimate, more.items[i].error, more.items[i].place);
    }
    drop_others(&kept);
    put_back(all, thread, query, &kept);
}

static void scan_part(void *context, size_t part, size_t thread)
{
    const shares_t *all = context;
    const size_t nq = all->scan->nq, parts = all->parts;
    const int by_codes = all->by_codes;
    const size_t start = by_codes ? 0 : nq * part / parts;
    const size_t stop = by_codes ? nq : nq * (part + 1) / parts;
    run_t run = by_codes ? part_of(&all->turns, part, parts) : part_of(&all->turns, 0, 1);
    while (next_run(&all->turns, &run))
        scan_run(all, thread, &run, start, stop);
    for (size_t query = start; !by_codes && query < stop; query++)
        finish(all, thread, query);
}

/* Decide how the work is divided; returns whether there is memory for it. */
static int share_out(shares_t *all, size_t threads, size_t numbers)
{
    const scan_t *w = all->scan;
    const size_t worth = numbers / PART ? numbers / PART : 1;
    threads = at_most(at_most(threads, MOST_THREADS), worth);
    all->by_codes = threads > w->nq;
    all->parts = all->by_codes ? at_most(worth, 4 * threads) : threads;
    all->threads = threads;
    if (!(all->scratch = calloc(threads, sizeof *all->scratch)))
        return 0;
    for (size_t i = 0; i < threads; i++)
        if (!make_scratch(all->sketch, all->scratch + i, w->capacity))
            return 0;
    if (!all->by_codes)
        return 1;
    all->others = malloc((threads - 1) * w->nq * 2 * w->capacity * sizeof *all->others + 1);
    all->counts = calloc((threads - 1) * w->nq + 1, sizeof *all->counts);
    return all->others && all->counts;
}

static int scan(const sketch_t *s, const scan_t *w, size_t threads)
{
    if (!w->nlists || !w->nq)
        return 1;
    shares_t all = {
        .sketch = s,
        .scan = w,
        .turns = {w->nlists, w->sizes, w->pair_starts, w->pair_nearest, malloc(16 * w->nlists)},
    };
    const size_t numbers = all.turns.ends ? write_ends(&all.turns) * s->d / BITS_FASTER : 0;
    const int ready = all.turns.ends && share_out(&all, threads, numbers);
    if (ready) {
        Py_BEGIN_ALLOW_THREADS;
        share(all.parts, all.threads, numbers < BRIEF, scan_part, &all);
        for (size_t query = 0; all.by_codes && query < w->nq; query++)
            finish(&all, 0, query);
        Py_END_ALLOW_THREADS;
    } else {
        PyErr_NoMemory();
    }
    for (size_t i = 0; all.scratch && i < all.threads; i++)
        free(all.scratch[i].memory);
    free(all.scratch);
    free(all.others);
    free(all.counts);
    free(all.turns.ends);
    return ready;
}
