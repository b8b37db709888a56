/* Dividing lists of codes by cost, for _scan.c and _sketch.c.
 *
 * There are two turns: first each list for the queries whose nearest it is, then each list for the
 * others. The first turn's results set a low limit. A code costs as much as the number of its queries,
 * plus a constant for unpacking. Parts are runs of equal cost, which may cut a list.
 */
enum { UNPACK = 3 }; /* unpacking a code takes about as long as comparing it with three queries */

typedef struct {
    size_t nlists;
    const int64_t *sizes, *pair_starts; /* pairs of list i: pair_starts[i]..pair_starts[i + 1] */
    const uint8_t *pair_nearest;        /* whether the list is the query's nearest */
    size_t *ends;                       /* (2 nlists,): cost until the end of each turn */
} turns_t;

/* Rows [row, stop) of one list, for the pairs of which `nearest` is true, or false. */
typedef struct {
    size_t from, to; /* cost, of the whole part */
    size_t turn;     /* the one after this */
    size_t list, row, stop;
    int nearest;
} run_t;

static inline size_t at_most(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Cost of one code of a turn. */
static size_t cost_each(const turns_t *t, size_t turn)
{
    const size_t list = turn % t->nlists, nearest = turn < t->nlists;
    size_t count = 0;
    for (int64_t pair = t->pair_starts[list]; pair < t->pair_starts[list + 1]; pair++)
        count += !!t->pair_nearest[pair] == nearest;
    return count ? count + UNPACK : 0;
}

/* Fill `ends`, and return the cost of all. */
static size_t write_ends(const turns_t *t)
{
    size_t end = 0;
    for (size_t turn = 0; turn < 2 * t->nlists; turn++)
        t->ends[turn] = end += (size_t)t->sizes[turn % t->nlists] * cost_each(t, turn);
    return end;
}

/* The turn in which a cost is reached. */
static size_t turn_at(const turns_t *t, size_t cost)
{
    size_t low = 0, high = 2 * t->nlists;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (t->ends[middle] > cost)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* One of several parts, before its first run. */
static run_t part_of(const turns_t *t, size_t part, size_t parts)
{
    const size_t total = t->ends[2 * t->nlists - 1], each = total / parts, rest = total % parts;
    const size_t from = part * each + at_most(part, rest);
    return (run_t){.from = from, .to = from + each + (part < rest), .turn = turn_at(t, from)};
}

/* Advance to the next run of a part; returns whether there is one. */
static int next_run(const turns_t *t, run_t *run)
{
    for (; run->turn < 2 * t->nlists; run->turn++) {
        const size_t turn = run->turn, list = turn % t->nlists;
        const size_t begin = turn ? t->ends[turn - 1] : 0, size = (size_t)t->sizes[list];
        if (begin >= run->to)
            return 0;
        const size_t cost = size ? (t->ends[turn] - begin) / size : 0;
        if (!cost)
            continue;
        run->list = list, run->nearest = turn < t->nlists;
        run->row = run->from > begin ? (run->from - begin + cost - 1) / cost : 0;
        run->stop = at_most((run->to - begin + cost - 1) / cost, size);
        run->turn++;
        return 1;
    }
    return 0;
}

/* A limit that several threads lower. */
static inline float limit_at(const float *limit)
{
    float found;
    __atomic_load(limit, &found, __ATOMIC_RELAXED);
    return found;
}

static void lower_limit(float *limit, float lower)
{
    float found = limit_at(limit);
    while (lower < found && !__atomic_compare_exchange(limit, &found, &lower, 1, __ATOMIC_RELAXED,
                                                       __ATOMIC_RELAXED))
        ;
}
