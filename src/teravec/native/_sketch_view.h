/* Queries as lists see them, in 8 bits a dimension; for _sketch.c. */

/* A query as one list sees it: its estimates are base + square n - f step (2 <u, q> - offset). */
typedef struct {
    int32_t *q;     /* 8 a word: four values of 8 bits, of the dimensions of one step */
    int32_t *table; /* 4 words * 256 sums of values, at level 0 */
    int32_t offset;
    float base, square, step;
    float spread; /* error bounds are spread times the length that a code misses */
} view_t;

static inline int8_t *value_of(view_t *v, size_t i)
{
    return (int8_t *)(v->q + i / WORD * 8 + i % 8) + i % WORD / 8;
}

/* Adding this to a float below 2^22 leaves the rounded whole number (ties to even) in the low bits. So
 * many values are rounded at a time, on any processor. */
#define ROUNDING 12582912.0f

/* Round q less the centroid (NULL for inner products) to 8 bits a dimension. Compiled only once, because
 * all instruction sets must round alike. `values` holds d values, then zeros up to whole words. */
static void make_view(const sketch_t *s, view_t *v, float *values, const float *query,
                      const float *centroid, float coarse)
{
    const size_t padded = s->words * WORD;
    for (size_t i = 0; i < s->d; i++)
        values[i] = centroid ? query[i] - centroid[i] : query[i];
    int32_t most = 0;
    double squares[4] = {0};
    for (size_t i = 0; i < padded; i++) {
        int32_t bits;
        memcpy(&bits, values + i, 4);
        bits &= INT32_MAX;
        most = bits > most ? bits : most;
    }
    for (size_t i = 0; i < padded; i += 4)
        for (size_t j = 0; j < 4; j++)
            squares[j] += (double)values[i + j] * values[i + j];
    float largest;
    memcpy(&largest, &most, 4);
    const float unit = largest > 0 ? 127 / largest : 0;
    const float inverse = isfinite(unit) ? unit : 0; /* of a view too short to matter */
    int32_t sum = 0;
    for (size_t w = 0; w < s->words; w++) {
        int32_t rounded[WORD], zero;
        const float none = ROUNDING;
        memcpy(&zero, &none, 4);
        for (size_t i = 0; i < WORD; i++) {
            const float moved = values[w * WORD + i] * inverse + ROUNDING;
            memcpy(rounded + i, &moved, 4);
            rounded[i] -= zero;
            sum += rounded[i];
        }
        for (size_t t = 0; t < 8; t++)
            v->q[w * 8 + t] = (int32_t)((uint32_t)(rounded[t] & 255) |
                                        (uint32_t)(rounded[8 + t] & 255) << 8 |
                                        (uint32_t)(rounded[16 + t] & 255) << 16 |
                                        (uint32_t)(rounded[24 + t] & 255) << 24);
    }
    const double square = squares[0] + squares[1] + (squares[2] + squares[3]);
    const double freedom = s->d > 1 ? (double)(s->d - 1) : 1.0;
    v->spread = (float)((s->similarity ? 1 : 2) * s->epsilon * sqrt(square / freedom));
    v->offset = (s->bits == 1 ? 1 : 3) * sum;
    v->base = s->similarity ? -coarse : coarse;
    v->square = s->similarity ? 0 : 1;
    v->step = (s->similarity ? 0.5f : 1.0f) * (largest / 127);
    if (s->level)
        return;
    for (size_t b = 0; b < s->words * 4; b++) {
        int32_t *entry = v->table + b * 256;
        entry[0] = 0;
        for (unsigned byte = 1; byte < 256; byte++)
            entry[byte] = entry[byte & (byte - 1)] +
                          *value_of(v, b * 8 + (unsigned)__builtin_ctz(byte));
    }
}
