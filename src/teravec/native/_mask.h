/* Runs of lists and their visible rows, for _scan.c and _sketch.c.
 *
 * A list may lie in several runs, each with a number of its own, which names the places of its rows. A
 * run's bits say which of its rows are visible: row r where bit r % 8 of byte r / 8 is 1. Rows are
 * counted from the start of the run, also where only a part of it is in memory. Bits after the last row
 * mean nothing.
 */

typedef struct {
    const int64_t *numbers; /* of each entry's run */
    const uint8_t *bits;    /* of all runs; NULL: every row of every run is visible */
    const int64_t *starts;  /* byte at which a run's bits begin; -1: all of its rows are visible */
} runs_t;

/* The bits of an entry's run; NULL where all rows are visible. */
static inline const uint8_t *bits_of(const runs_t *runs, size_t entry)
{
    return runs->bits && runs->starts[entry] >= 0 ? runs->bits + runs->starts[entry] : NULL;
}

/* The 64 rows from `row` on, one bit each, without those from `stop` on. Reads no byte after the one of
 * row stop - 1. */
static inline uint64_t rows_from(const uint8_t *bits, size_t row, size_t stop)
{
    const size_t byte = row / 8, bytes = (stop + 7) / 8 - byte, left = stop - row;
    uint64_t word = 0;
    if (bytes >= 8)
        memcpy(&word, bits + byte, 8);
    else
        for (size_t i = 0; i < bytes; i++)
            word |= (uint64_t)bits[byte + i] << 8 * i;
    word >>= row % 8;
    return left < 64 ? word & ((1ull << left) - 1) : word;
}

/* Write the next visible rows of [*row, stop), at most `most`, and move *row behind them. Rows in memory
 * begin at row `first` of the run. Returns how many there are; fewer than `most` only at the end. */
static inline size_t next_rows(const uint8_t *bits, size_t first, size_t *row, size_t stop,
                               size_t most, uint32_t *rows)
{
    size_t count = 0, at = *row;
    while (at < stop) {
        uint64_t word = rows_from(bits, first + at, first + stop);
        for (; word && count < most; word &= word - 1)
            rows[count++] = (uint32_t)(at + (size_t)__builtin_ctzll(word));
        if (word) {
            *row = at + (size_t)__builtin_ctzll(word);
            return count;
        }
        at += 64 - (first + at) % 8;
    }
    *row = stop;
    return count;
}

static inline int any_row(const uint8_t *bits, size_t first, size_t row, size_t stop)
{
    uint32_t found;
    return next_rows(bits, first, &row, stop, 1, &found) > 0;
}

/* ------------------------------------------------------------------ checked buffers */

/* Take the buffers, each NULL or None if it is not given; lists of one run have its number. */
static int take_runs(buffers_t *all, PyObject *numbers, PyObject *bits, PyObject *starts,
                     const int64_t *list_nos, size_t n, runs_t *runs, size_t *nbits)
{
    size_t found;
    *runs = (runs_t){.numbers = list_nos}, *nbits = 0;
    if (numbers && numbers != Py_None &&
        (!(runs->numbers = take(all, numbers, "run_nos", 'q', 0, &found)) ||
         !check_length("run_nos", found, n)))
        return 0;
    if (!bits || bits == Py_None)
        return 1;
    if (!starts || starts == Py_None) {
        PyErr_SetString(PyExc_ValueError, "bits have no starts");
        return 0;
    }
    return (runs->bits = take(all, bits, "bits", 'B', 0, nbits)) &&
           (runs->starts = take(all, starts, "starts", 'q', 0, &found)) &&
           check_length("starts", found, n);
}

/* Check each entry's number, rows and bits; the rows of an entry begin at `first`. */
static int check_runs(const runs_t *runs, size_t n, const int64_t *sizes, int64_t first,
                      size_t nbits)
{
    for (size_t e = 0; e < n; e++) {
        if (first < 0 || first > UINT32_MAX || sizes[e] < 0 || sizes[e] > UINT32_MAX - first ||
            runs->numbers[e] < 0 || runs->numbers[e] > INT32_MAX) {
            PyErr_Format(PyExc_ValueError, "entry %zu: row %lld of run %lld is out of range", e,
                         (long long)first, (long long)runs->numbers[e]);
            return 0;
        }
        const size_t bytes = (size_t)(first + sizes[e] + 7) / 8;
        if (runs->bits && runs->starts[e] != -1 &&
            (runs->starts[e] < 0 || bytes > nbits || (size_t)runs->starts[e] > nbits - bytes)) {
            PyErr_Format(PyExc_ValueError, "entry %zu: %zu bytes of bits at byte %lld of %zu", e,
                         bytes, (long long)runs->starts[e], nbits);
            return 0;
        }
    }
    return 1;
}
