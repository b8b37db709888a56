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

/* ------------------------------------------------------------------ nearest centroids */

/* The k centroids of lowest score for each row, lowest first, and their squared distances, or inner
 * products where half-norms are 0. */
FN void NAME(nearest)(const nearest_t *s, const float *x, size_t n, int64_t *out_list, float *out)
{
    const size_t k = s->k, stride = s->stride;
    for (size_t i = 0; i < n; i += s->rows_each) {
        const size_t count = n - i < s->rows_each ? n - i : s->rows_each;
        NAME(score_rows)(x + i * s->d, count, s->d, s->packed, s->half, stride, s->scores);
        for (size_t r = i; r < i + count; r++) {
            const float norm = s->similarity ? 0 : NAME(squared_norm)(x + r * s->d, s->d);
            NAME(smallest_k)(s->scores + (r - i) * stride, stride, k, s->buffer, s->capacity,
                             s->index, out + r * k);
            for (size_t j = r * k; j < (r + 1) * k; j++) {
                const float distance = 2 * out[j] + norm;
                out_list[j] = s->index[j - r * k];
                out[j] = s->similarity ? -out[j] : distance > 0 ? distance : 0;
            }
        }
    }
}
