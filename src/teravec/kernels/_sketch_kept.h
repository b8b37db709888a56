/* The candidates kept for a query; for _sketch.c.
 *
 * They are in no order, until they are twice as many as wanted: then all but the lowest by
 * (estimate, place) go, and the greatest of those that stay is the limit for what comes. A heap
 * took as long as the scan.
 */
typedef struct {
    float estimate, error;
    int64_t place;
} candidate_t;

typedef struct {
    candidate_t *items; /* room for 2 * capacity */
    size_t count, capacity;
    float limit; /* of an estimate that may be kept */
} kept_t;

static inline int before(const candidate_t *a, const candidate_t *b)
{
    return a->estimate < b->estimate || (a->estimate == b->estimate && a->place < b->place);
}

static inline void swap(candidate_t *a, candidate_t *b)
{
    const candidate_t t = *a;
    *a = *b, *b = t;
}

/* Move the k lowest of n to the front, the greatest of them to items[k - 1]; 0 < k <= n. */
static void select_lowest(candidate_t *items, size_t n, size_t k)
{
    uint64_t mix = 0x9e3779b97f4a7c15u;
    size_t low = 0, high = n;
    while (high - low > 1) {
        mix ^= mix >> 29, mix *= 0xbf58476d1ce4e5b9u, mix ^= mix >> 32;
        swap(items + low + mix % (high - low), items + high - 1);
        const candidate_t pivot = items[high - 1];
        size_t middle = low;
        for (size_t i = low; i < high - 1; i++) { /* without branches */
            const int less = before(items + i, &pivot);
            swap(items + i, items + middle);
            middle += (size_t)less;
        }
        swap(items + middle, items + high - 1);
        if (middle == k - 1)
            return;
        if (middle < k - 1)
            low = middle + 1;
        else
            high = middle;
    }
}

static void drop_others(kept_t *kept)
{
    if (kept->count < kept->capacity + (kept->limit < INFINITY))
        return;
    select_lowest(kept->items, kept->count, kept->capacity);
    kept->count = kept->capacity;
    kept->limit = kept->items[kept->count - 1].estimate;
}

static inline void keep(kept_t *kept, float estimate, float error, int64_t place)
{
    kept->items[kept->count++] = (candidate_t){estimate, error, place};
    if (kept->count == 2 * kept->capacity)
        drop_others(kept);
}
