/* The k smallest of many values, as keys: value above, index below, distinct. */

/* A key ordered as (value, index); -0 equals +0, and NaN follows +inf. */
static inline uint64_t sort_key(float value, size_t index)
{
    uint32_t bits;
    const float plain = value != value ? NAN : value + 0.0f;
    memcpy(&bits, &plain, 4);
    bits ^= bits & 0x80000000u ? 0xffffffffu : 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)index;
}

/* The value of a key; +inf for NaN, so that every number may still enter. */
static inline float key_value(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    float value;
    bits ^= bits & 0x80000000u ? 0x80000000u : 0xffffffffu;
    memcpy(&value, &bits, 4);
    return value != value ? INFINITY : value;
}

static void insertion_sort(uint64_t *keys, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        const uint64_t key = keys[i];
        size_t j = i;
        for (; j && keys[j - 1] > key; j--)
            keys[j] = keys[j - 1];
        keys[j] = key;
    }
}

/* Split around a pivot at an arbitrary but repeatable place; returns the pivot's index. Keys are
 * distinct, so the sizes do not depend on ties. */
static size_t partition_keys(uint64_t *keys, size_t n)
{
    uint64_t mix = (uint64_t)n * 0x9e3779b97f4a7c15u ^ keys[n / 2];
    size_t pick[3];
    for (int i = 0; i < 3; i++) {
        mix ^= mix >> 29, mix *= 0xbf58476d1ce4e5b9u, mix ^= mix >> 32;
        pick[i] = (size_t)(mix % n);
    }
    if (keys[pick[0]] > keys[pick[1]]) {
        const size_t t = pick[0];
        pick[0] = pick[1], pick[1] = t;
    }
    if (keys[pick[1]] > keys[pick[2]])
        pick[1] = keys[pick[0]] > keys[pick[2]] ? pick[0] : pick[2];
    const uint64_t pivot = keys[pick[1]];
    keys[pick[1]] = keys[n - 1];
    keys[n - 1] = pivot;
    size_t low = 0;
    for (size_t i = 0; i < n - 1; i++) { /* without branches */
        const uint64_t key = keys[i];
        keys[i] = keys[low];
        keys[low] = key;
        low += key < pivot;
    }
    keys[n - 1] = keys[low];
    keys[low] = pivot;
    return low;
}

/* Move the k lowest of n keys to the front, the greatest of them to keys[k - 1]. */
static inline void select_keys(uint64_t *keys, size_t n, size_t k)
{
    const size_t target = k - 1;
    size_t low = 0, high = n;
    while (high - low > 16) {
        const size_t middle = low + partition_keys(keys + low, high - low);
        if (middle == target)
            return;
        if (middle < target)
            low = middle + 1;
        else
            high = middle;
    }
    insertion_sort(keys + low, high - low);
}

/* Ascending. */
static inline void sort_keys(uint64_t *keys, size_t n)
{
    while (n > 24) { /* recurse into the smaller side: depth stays below log2(n) */
        const size_t middle = partition_keys(keys, n);
        if (middle < n - middle) {
            sort_keys(keys, middle);
            keys += middle + 1;
            n -= middle + 1;
        } else {
            sort_keys(keys + middle + 1, n - middle - 1);
            n = middle;
        }
    }
    insertion_sort(keys, n);
}
