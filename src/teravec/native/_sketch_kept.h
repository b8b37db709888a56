/* The candidates of a query, for _sketch.c.
 *
 * They are unordered. When there are twice as many as requested, all but the lowest by (estimate,
 * place) are dropped, and the greatest remaining estimate becomes the limit. A heap took as long as
 * the scan.
 */
#include "_native_select.h"
#include "_candidate.h"

typedef struct {
    candidate_t *items; /* room for 2 * capacity */
    uint64_t *keys;     /* as much, to select by */
    size_t count, capacity;
    float limit; /* of an estimate that may be kept */
} kept_t;

static inline void swap(candidate_t *a, candidate_t *b)
{
    const candidate_t t = *a;
    *a = *b, *b = t;
}

/* Move the k of lowest place of n to the front. A place may occur twice, if its list was scanned twice. */
static void select_first(candidate_t *items, uint64_t *keys, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i++)
        keys[i] = (uint64_t)items[i].place;
    select_keys(keys, n, k);
    const uint64_t last = keys[k - 1];
    size_t first = 0;
    for (size_t i = 0; i < n; i++)
        if ((uint64_t)items[i].place < last)
            swap(items + i, items + first++);
    for (size_t i = first; first < k; i++)
        if ((uint64_t)items[i].place == last)
            swap(items + i, items + first++);
}

static void drop_others(kept_t *kept)
{
    const size_t n = kept->count, k = kept->capacity;
    if (n < k + (kept->limit < INFINITY))
        return;
    for (size_t i = 0; i < n; i++)
        kept->keys[i] = sort_key(kept->items[i].estimate, i);
    select_keys(kept->keys, n, k);
    const float limit = kept->items[(uint32_t)kept->keys[k - 1]].estimate;
    size_t lower = 0;
    for (size_t i = 0; i < n; i++) { /* without branches */
        const int less = kept->items[i].estimate < limit;
        swap(kept->items + i, kept->items + lower);
        lower += (size_t)less;
    }
    size_t equal = lower;
    for (size_t i = lower; i < n; i++)
        if (kept->items[i].estimate == limit)
            swap(kept->items + i, kept->items + equal++);
    if (equal > k)
        select_first(kept->items + lower, kept->keys, equal - lower, k - lower);
    kept->count = k;
    kept->limit = limit < kept->limit ? limit : kept->limit;
}

static inline void keep(kept_t *kept, float estimate, float error, int64_t place)
{
    kept->items[kept->count++] = (candidate_t){estimate, error, place};
    if (kept->count == 2 * kept->capacity)
        drop_others(kept);
}
