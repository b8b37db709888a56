/* Kernels of the coarse search, a part of _native_kernels.h, which includes it once per instruction
 * set; hence no include guard.
 */

/* ------------------------------------------------------------------ k smallest */

FN void NAME(smallest_k)(const float *scores, size_t m, size_t k, uint64_t *buffer, size_t capacity,
                         int32_t *out_index, float *out_value)
{
    size_t count = 0, j = 0;
    for (; j < m && count < capacity; j++)
        buffer[count++] = sort_key(scores[j], j);
    if (j < m) {
        select_keys(buffer, count, k);
        count = k;
        float limit = key_value(buffer[k - 1]);
        /* A later equal value loses the tie, so only lower values enter. */
        for (; j + 4 * VL <= m; j += 4 * VL) {
            const VEC all = SPLAT(limit);
            uint64_t bits = LESS_BITS(LOAD(scores + j), all);
            bits |= (uint64_t)LESS_BITS(LOAD(scores + j + VL), all) << VL;
            bits |= (uint64_t)LESS_BITS(LOAD(scores + j + 2 * VL), all) << (2 * VL);
            bits |= (uint64_t)LESS_BITS(LOAD(scores + j + 3 * VL), all) << (3 * VL);
            for (; bits; bits &= bits - 1) {
                const size_t at = j + (size_t)__builtin_ctzll(bits);
                buffer[count++] = sort_key(scores[at], at);
            }
            if (count + 4 * VL > capacity) {
                select_keys(buffer, count, k);
                count = k;
                limit = key_value(buffer[k - 1]);
            }
        }
        for (; j < m; j++) /* fewer than 4 * VL, for which there is room */
            if (scores[j] < limit)
                buffer[count++] = sort_key(scores[j], j);
    }
    select_keys(buffer, count, k);
    sort_keys(buffer, k);
    for (size_t i = 0; i < k; i++) {
        out_index[i] = (int32_t)(uint32_t)buffer[i];
        out_value[i] = scores[(uint32_t)buffer[i]];
    }
}

/* ------------------------------------------------------------------ one row, by bytes first */

#if NATIVE_X86 && VL > 4
/* Lane i: bytes 2 i and 2 i + 1 times the two 16-bit numbers. */
FN IVEC NAME(pair_products)(const int8_t *c, int32_t two)
{
#if VL == 16
    const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)c));
    return (IVEC)_mm512_madd_epi16(wide, _mm512_set1_epi32(two));
#else
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)c));
    return (IVEC)_mm256_madd_epi16(wide, _mm256_set1_epi32(two));
#endif
}
#endif

/* Sums of products of a row of 16-bit numbers with the bytes of n centroids, pairs of elements of
 * BYTE_PLACES centroids side by side; all are exact. */
FN void NAME(byte_products)(const int16_t *x, size_t pairs, const int8_t *bytes, size_t n,
                            int32_t *out)
{
    for (size_t j = 0; j < n; j += BYTE_PLACES) {
        const int8_t *c = bytes + j * 2 * pairs;
#if NATIVE_X86 && VL > 4
        IVEC sums[BYTE_PLACES / VL] = {{0}};
        for (size_t p = 0; p < pairs; p++, c += 2 * BYTE_PLACES) {
            int32_t two;
            memcpy(&two, x + 2 * p, 4);
            for (size_t i = 0; i < BYTE_PLACES / VL; i++)
                sums[i] += NAME(pair_products)(c + 2 * VL * i, two);
        }
#else
        int32_t sums[BYTE_PLACES] = {0};
        for (size_t p = 0; p < pairs; p++, c += 2 * BYTE_PLACES)
            for (size_t i = 0; i < BYTE_PLACES; i++)
                sums[i] += c[2 * i] * x[2 * p] + c[2 * i + 1] * x[2 * p + 1];
#endif
        memcpy(out + j, sums, sizeof sums);
    }
}

/* The score of one row and one centroid, with the additions of a tile's chain. */
FN float NAME(score_one)(const float *x, size_t d, const float *centroid, float half)
{
    for (size_t k = 0; k < d; k++)
        half = FUSED(-centroid[k], x[k], half);
    return half;
}

/* Write a row as 16-bit numbers, and return their unit. */
FN float NAME(shorten)(const nearest_t *s, const float *x)
{
    const size_t d = s->d, padded = (d + 1) / 2 * 2;
    float most = 0;
    for (size_t k = 0; k < d; k++)
        most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
    const float most_short = BYTE_SUMS / (float)d < INT16_MAX ? BYTE_SUMS / (float)d : INT16_MAX;
    const float unit = most > 0 ? most / floorf(most_short) : 1;
    for (size_t k = 0; k < padded; k++)
        s->bytes.shorts[k] = (int16_t)(k < d ? rintf(x[k] / unit) : 0);
    return unit;
}

/* Scores of one row against places [from, to), multiples of ONE_PLACES except the last. If there are
 * bytes, these are compared with the row's 16-bit numbers. */
FN void NAME(score_places)(const nearest_t *s, const float *x, float unit, size_t from, size_t to,
                           float *scores)
{
    const bytes_t *b = &s->bytes;
    const size_t pairs = (s->d + 1) / 2;
    if (!b->bytes) {
        NAME(score_rows)(x, 1, s->d, s->packed + from * s->d, s->half + from, to - from, scores + from);
        return;
    }
    NAME(byte_products)(b->shorts, pairs, b->bytes + from * 2 * pairs, to - from, b->products + from);
    const float both = unit * b->unit;
    for (size_t j = from; j < to; j++)
        scores[j] = s->half[j] - (float)b->products[j] * both;
}

/* Replace scores by bytes by exact ones, for centroids that may be among the row's k lowest, and write
 * these centroids to `products`. Returns their number, or 0 if the numbers are too large for a bound.
 *
 * A product with bytes differs from the exact one by at most |x| times the rounding of a centroid to
 * bytes, plus |bytes| times the rounding of x to 16 bits. The k lowest of all are therefore among
 * those whose score by bytes is at most the k-th lowest such score plus twice that error. */
FN size_t NAME(score_exactly)(const nearest_t *s, const ranks_t *w, const float *x, float unit)
{
    const bytes_t *b = &s->bytes;
    const size_t d = s->d, n = s->stride;
    const float norm = sqrtf(NAME(squared_norm)(x, d));
    NAME(smallest_k)(w->scores, n, s->k, w->buffer, s->capacity, w->index, b->lowest);
    /* The last term covers roundings in float32, of d additions each. */
    const float error = norm * b->missed + 0.5f * unit * sqrtf((float)d) * b->longest +
                        (float)(d + 16) * 0x1p-23f * (norm * b->longest + b->most_half);
    const float limit = b->lowest[s->k - 1] + 2 * error;
    if (!(limit < INFINITY))
        return 0;
    size_t count = 0;
    for (size_t j = 0; j < n; j += VL) { /* count is at most j: what is written was read */
        uint32_t bits = LESS_EQUAL_BITS(LOAD(w->scores + j), SPLAT(limit));
        for (; bits; bits &= bits - 1) {
            const size_t at = j + (size_t)__builtin_ctz(bits);
            w->scores[count] = NAME(score_one)(x, d, b->centroids + at * d, s->half[at]);
            b->products[count++] = (int32_t)at;
        }
    }
    return count;
}

/* ------------------------------------------------------------------ nearest centroids */

/* The k centroids of lowest score for a row, lowest first, and their squared distances (inner products
 * if half-norms are 0). `names` gives the centroid of each score, unless scores are of all in turn. */
FN void NAME(write_nearest)(const nearest_t *s, const ranks_t *w, const float *x,
                            const float *scores, size_t nscores, const int32_t *names,
                            int64_t *out_list, float *out)
{
    const float norm = s->similarity ? 0 : NAME(squared_norm)(x, s->d);
    NAME(smallest_k)(scores, nscores, s->k, w->buffer, s->capacity, w->index, out);
    for (size_t j = 0; j < s->k; j++) {
        const float distance = 2 * out[j] + norm;
        const int32_t at = w->index[j];
        out_list[j] = names ? names[at] : at;
        out[j] = s->similarity ? -out[j] : distance > 0 ? distance : 0;
    }
}

/* The nearest centroids of one row that was compared with all places. */
FN void NAME(nearest_scored)(const nearest_t *s, const ranks_t *w, const float *x, float unit,
                             int64_t *out_list, float *out)
{
    const int32_t *names = s->bytes.bytes ? s->bytes.products : NULL;
    size_t nscores = names ? NAME(score_exactly)(s, w, x, unit) : s->stride;
    if (!nscores) {
        NAME(score_rows)(x, 1, s->d, s->packed, s->half, s->stride, w->scores);
        names = NULL, nscores = s->stride;
    }
    NAME(write_nearest)(s, w, x, w->scores, nscores, names, out_list, out);
}

/* The nearest centroids of some rows, at most rows_each. */
FN void NAME(nearest_rows)(const nearest_t *s, const ranks_t *w, const float *x, size_t n,
                           int64_t *out_list, float *out)
{
    NAME(score_rows)(x, n, s->d, s->packed, s->half, s->stride, w->scores);
    for (size_t i = 0; i < n; i++)
        NAME(write_nearest)(s, w, x + i * s->d, w->scores + i * s->stride, s->stride, NULL,
                            out_list + i * s->k, out + i * s->k);
}
