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

enum { NAME(PANELS) = 4 };

/* Scores of one row against all panels, as score_rows has them. Four panels at a time: the sums of
 * one would wait for each other. */
FN void NAME(score_row)(const float *x, size_t d, const float *packed, const float *half,
                        size_t npanels, float *out)
{
    size_t p = 0;
    for (; p + NAME(PANELS) <= npanels; p += NAME(PANELS)) {
        const float *c = packed + p * d * PW;
        VEC sums[2 * NAME(PANELS)];
#pragma GCC unroll 8
        for (int i = 0; i < 2 * NAME(PANELS); i++)
            sums[i] = LOAD(half + p * PW + (size_t)i * VL);
        for (size_t k = 0; k < d; k++, c += PW) {
            const float s = x[k];
#pragma GCC unroll 8
            for (int i = 0; i < 2 * NAME(PANELS); i++)
                sums[i] -= LOAD(c + (size_t)(i / 2) * d * PW + (size_t)(i % 2) * VL) * s;
        }
#pragma GCC unroll 8
        for (int i = 0; i < 2 * NAME(PANELS); i++)
            STORE(out + p * PW + (size_t)i * VL, sums[i]);
    }
    for (; p < npanels; p++) {
        const float *c = packed + p * d * PW;
        VEC a = LOAD(half + p * PW), b = LOAD(half + p * PW + VL);
        for (size_t k = 0; k < d; k++, c += PW) {
            const float s = x[k];
            a -= LOAD(c) * s;
            b -= LOAD(c + VL) * s;
        }
        STORE(out + p * PW, a);
        STORE(out + p * PW + VL, b);
    }
}

/* The k centroids of lowest score for each row, lowest first, and their squared distances, or inner
 * products where half-norms are 0. */
FN void NAME(nearest)(const nearest_t *s, const float *x, size_t n, int64_t *out_list, float *out)
{
    const size_t k = s->k, stride = s->stride;
    for (size_t i = 0; i < n; i += s->rows_each) {
        const size_t count = n - i < s->rows_each ? n - i : s->rows_each;
        if (count == 1)
            NAME(score_row)(x + i * s->d, s->d, s->packed, s->half, stride / PW, s->scores);
        else
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
