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
        /* An equal value further on loses its tie, so only lower ones enter. */
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

/* The score of one row and one centroid, by the chain of a tile: in so many words, as a compiler may
 * put all products first. */
FN float NAME(score_one)(const float *x, size_t d, const float *centroid, float half)
{
    for (size_t k = 0; k < d; k++)
#if NATIVE_X86 && VL > 4
        half = __builtin_fmaf(-centroid[k], x[k], half);
#else
        half -= centroid[k] * x[k];
#endif
    return half;
}

/* Exact scores of one row that may be among the k lowest, and their centroids in `products`; how
 * many, or 0 where numbers are too large to tell.
 *
 * A product with bytes differs from the exact one by at most |x| times what bytes miss of a
 * centroid, and |bytes| times what 16 bits miss of x. So the k lowest of all are among those whose
 * score by bytes is at most the k-th lowest of these, plus twice that error. */
FN size_t NAME(score_by_bytes)(const nearest_t *s, const float *x)
{
    const bytes_t *b = &s->bytes;
    const size_t d = s->d, pairs = (d + 1) / 2, n = s->stride;
    const float norm = sqrtf(NAME(squared_norm)(x, d));
    float most = 0;
    for (size_t k = 0; k < d; k++)
        most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
    const float most_short = BYTE_SUMS / (float)d < INT16_MAX ? BYTE_SUMS / (float)d : INT16_MAX;
    const float unit = most > 0 ? most / floorf(most_short) : 1;
    for (size_t k = 0; k < 2 * pairs; k++)
        b->shorts[k] = (int16_t)(k < d ? rintf(x[k] / unit) : 0);
    NAME(byte_products)(b->shorts, pairs, b->bytes, n, b->products);
    const float both = unit * b->unit;
    for (size_t j = 0; j < n; j++)
        s->scores[j] = s->half[j] - (float)b->products[j] * both;
    NAME(smallest_k)(s->scores, n, s->k, s->buffer, s->capacity, s->index, b->lowest);
    /* The last term is for roundings in float32, d additions each. */
    const float error = norm * b->missed + 0.5f * unit * sqrtf((float)d) * b->longest +
                        (float)(d + 16) * 0x1p-23f * (norm * b->longest + b->most_half);
    const float limit = b->lowest[s->k - 1] + 2 * error;
    if (!(limit < INFINITY))
        return 0;
    size_t count = 0;
    for (size_t j = 0; j < n; j += VL) { /* count is at most j: what is written was read */
        uint32_t bits = LESS_EQUAL_BITS(LOAD(s->scores + j), SPLAT(limit));
        for (; bits; bits &= bits - 1) {
            const size_t at = j + (size_t)__builtin_ctz(bits);
            s->scores[count] = NAME(score_one)(x, d, b->centroids + at * d, s->half[at]);
            b->products[count++] = (int32_t)at;
        }
    }
    return count;
}

/* ------------------------------------------------------------------ nearest centroids */

/* The k centroids of lowest score for each row, lowest first, and their squared distances, or inner
 * products where half-norms are 0. */
FN void NAME(nearest)(const nearest_t *s, const float *x, size_t n, int64_t *out_list, float *out)
{
    const size_t k = s->k, stride = s->stride;
    for (size_t i = 0; i < n; i += s->rows_each) {
        const size_t count = n - i < s->rows_each ? n - i : s->rows_each;
        const int32_t *names = NULL; /* of scores, where they are not of all centroids in turn */
        size_t nscores = 0;
        if (count == 1 && s->bytes.bytes)
            nscores = NAME(score_by_bytes)(s, x + i * s->d);
        if (nscores) {
            names = s->bytes.products;
        } else {
            NAME(score_rows)(x + i * s->d, count, s->d, s->packed, s->half, stride, s->scores);
            nscores = stride;
        }
        for (size_t r = i; r < i + count; r++) {
            const float norm = s->similarity ? 0 : NAME(squared_norm)(x + r * s->d, s->d);
            NAME(smallest_k)(s->scores + (r - i) * stride, nscores, k, s->buffer, s->capacity,
                             s->index, out + r * k);
            for (size_t j = r * k; j < (r + 1) * k; j++) {
                const float distance = 2 * out[j] + norm;
                const int32_t at = s->index[j - r * k];
                out_list[j] = names ? names[at] : at;
                out[j] = s->similarity ? -out[j] : distance > 0 ? distance : 0;
            }
        }
    }
}
