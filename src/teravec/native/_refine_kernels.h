/* Kernels of _refine.c, included once per instruction set by _levels.h; hence no include guard.
 *
 * A distance is a sum over lanes, k = lane, lane + VL, ..., then over the lanes in a tree: it depends
 * on query and code alone.
 */

#include "_codes_kernels.h"

INLINE VEC NAME(unpack)(const int codec, const uint8_t *code, size_t k)
{
    VEC values;
    switch (codec) {
    case CODEC_FP16: return NAME(unpack_fp16)(code, k);
    case CODEC_SQ8: return NAME(unpack_sq8)(code, k);
    case CODEC_SQ6: return NAME(unpack_sq6)(code, k);
    case CODEC_SQ4: return NAME(unpack_sq4)(code, k);
    default: memcpy(&values, code + 4 * k, sizeof values); return values;
    }
}

INLINE VEC NAME(added)(const int similarity, VEC sum, VEC query, VEC value)
{
    const VEC apart = query - value;
    return sum + (similarity ? query * value : apart * apart);
}

/* Squared distance of a query to a code, or their inner product. */
INLINE float NAME(distance)(const compare_t *c, const int codec, const int similarity,
                            const float *query, const float *centroid, const uint8_t *code)
{
    const int residual = codec != CODEC_FLAT && codec != CODEC_FP16;
    VEC sum = {0};
    size_t k = 0;
    for (; k + VL <= c->d; k += VL) {
        VEC value = NAME(unpack)(codec, code, k);
        if (residual)
            value = value * LOAD(c->step + k) + (LOAD(c->low + k) + LOAD(centroid + k));
        sum = NAME(added)(similarity, sum, LOAD(query + k), value);
    }
    if (k < c->d) {
        VEC values = {0}, rest = {0};
        for (size_t lane = 0; k + lane < c->d; lane++) {
            const size_t at = k + lane;
            values[lane] = value_at(codec, code, at);
            if (residual)
                values[lane] = values[lane] * c->step[at] + (c->low[at] + centroid[at]);
            rest[lane] = query[at];
        }
        sum = NAME(added)(similarity, sum, rest, values);
    }
#pragma GCC unroll 4
    for (int lanes = VL; lanes > 1; lanes /= 2)
        sum = NAME(add_pairs)(sum, sum);
    return sum[0];
}

INLINE void NAME(compare_as)(const compare_t *c, const int codec, const int similarity)
{
    for (size_t i = 0; i < c->n; i++) {
        if (i + AHEAD < c->n && c->begins[i + AHEAD] >= 0)
            for (size_t byte = 0; byte < c->row_size; byte += 64)
                __builtin_prefetch(c->rows + c->begins[i + AHEAD] + byte);
        if (c->begins[i] < 0)
            continue;
        const uint8_t *row = c->rows + c->begins[i];
        const float *query = c->queries + (size_t)c->owners[i] * c->d;
        const float *centroid =
            c->centroids ? c->centroids + (size_t)(c->places[i] >> PLACE_BITS) * c->d : NULL;
        c->distances[i] = NAME(distance)(c, codec, similarity, query, centroid, row);
        memcpy(c->ids + i, row + c->code_size, sizeof *c->ids);
    }
}

#define COMPARE_AS(codec)                                                                        \
    case codec:                                                                                  \
        c->similarity ? NAME(compare_as)(c, codec, 1) : NAME(compare_as)(c, codec, 0);           \
        break

FN void NAME(compare)(const compare_t *c)
{
    switch (c->codec) {
        COMPARE_AS(CODEC_FLAT);
        COMPARE_AS(CODEC_FP16);
        COMPARE_AS(CODEC_SQ8);
        COMPARE_AS(CODEC_SQ6);
        COMPARE_AS(CODEC_SQ4);
    }
}

#undef COMPARE_AS
#undef VL
#undef NAME
#undef FN
#undef INLINE
