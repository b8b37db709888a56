/* Kernels of _scan.c, included once per instruction set; hence no include guard.
 *
 * Before including, define
 *   VL        float32 lanes of a vector register (4, 8 or 16)
 *   NAME(x)   x with the instruction set's suffix
 *   FN        storage class and target attribute of every function
 *   INLINE    the same, of functions that are always inlined
 *
 * VL codes at a time are unpacked to rows of float32 in the first-level cache, and each query that
 * wants the list is compared with all of them while they lie there. A distance is a sum over lanes,
 * k = lane, lane + VL, ..., then over the lanes in a tree: it depends on query and code alone, not
 * on which other queries or codes are scanned with them.
 */

#include "_codes_kernels.h"

/* ------------------------------------------------------------------ unpacking */

/* Codes as rows of `stride` float32: value times step. */
#define UNPACK_ROWS(CODEC, unpack)                                                               \
    for (size_t i = 0; i < count; i++) {                                                         \
        const uint8_t *code = codes + i * s->code_size;                                          \
        float *row = rows + i * s->stride;                                                       \
        size_t k = 0;                                                                            \
        for (; k + VL <= s->d; k += VL)                                                          \
            STORE(row + k, unpack(code, k) * LOAD(s->step + k));                                 \
        for (; k < s->d; k++)                                                                    \
            row[k] = value_at(CODEC, code, k) * s->step[k];                                      \
    }

FN void NAME(unpack_tile)(const scan_t *s, const uint8_t *codes, size_t count, float *rows)
{
    switch (s->codec) {
    case CODEC_FLAT:
        for (size_t i = 0; i < count; i++)
            memcpy(rows + i * s->stride, codes + i * s->code_size, s->code_size);
        break;
    case CODEC_FP16: UNPACK_ROWS(CODEC_FP16, NAME(unpack_fp16)); break;
    case CODEC_SQ8: UNPACK_ROWS(CODEC_SQ8, NAME(unpack_sq8)); break;
    case CODEC_SQ6: UNPACK_ROWS(CODEC_SQ6, NAME(unpack_sq6)); break;
    case CODEC_SQ4: UNPACK_ROWS(CODEC_SQ4, NAME(unpack_sq4)); break;
    }
}

#undef UNPACK_ROWS

/* ------------------------------------------------------------------ distances */

/* Lane i is the sum of sums[i]'s lanes. */
FN VEC NAME(add_lanes)(VEC *sums)
{
#pragma GCC unroll 16
    for (int n = VL; n > 1; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n / 2; i++)
            sums[i] = NAME(add_pairs)(sums[2 * i], sums[2 * i + 1]);
    return sums[0];
}

/* Squared distances of a query, less what the codes have in common, to VL rows. */
FN VEC NAME(tile_l2)(const float *query, const float *rows, size_t stride)
{
    VEC sums[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++)
        sums[i] = (VEC){0};
    for (size_t k = 0; k < stride; k += VL) {
        const VEC q = LOAD(query + k);
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) {
            const VEC apart = q - LOAD(rows + (size_t)i * stride + k);
            sums[i] += apart * apart;
        }
    }
    return NAME(add_lanes)(sums);
}

/* Negated inner products of a query with VL rows. */
FN VEC NAME(tile_ip)(const float *query, const float *rows, size_t stride, float base)
{
    VEC sums[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++)
        sums[i] = (VEC){0};
    for (size_t k = 0; k < stride; k += VL) {
        const VEC q = LOAD(query + k);
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            sums[i] -= q * LOAD(rows + (size_t)i * stride + k);
    }
    return NAME(add_lanes)(sums) - base;
}

FN uint32_t NAME(at_most_bits)(VEC a, float limit)
{
#if NATIVE_X86 && VL == 16
    return (uint32_t)_mm512_cmp_ps_mask((__m512)a, _mm512_set1_ps(limit), _CMP_LE_OQ);
#elif NATIVE_X86 && VL == 8
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, _mm256_set1_ps(limit), _CMP_LE_OQ));
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < VL; lane++)
        bits |= (uint32_t)(a[lane] <= limit) << lane;
    return bits;
#endif
}

/* ------------------------------------------------------------------ scanning */

/* Queries of a group less the list's centroid and `low` (l2), or as they are (inner product, where
 * what is the same for all codes goes into `base`). */
FN void NAME(prepare_queries)(const scan_t *s, work_t *w, int64_t list_no, size_t pair, size_t n)
{
    const size_t d = s->d;
    const float *centroid = s->centroids ? s->centroids + (size_t)list_no * d : NULL;
    for (size_t i = 0; i < n; i++) {
        const size_t number = (size_t)s->pair_queries[pair + i];
        const float *query = s->queries + number * d;
        float *out = w->queries + i * s->stride;
        w->base[i] = s->pair_coarse ? s->pair_coarse[pair + i] : 0;
        if (s->similarity) {
            memcpy(out, query, 4 * d);
            if (s->low)
                for (size_t k = 0; k < d; k++)
                    w->base[i] += query[k] * s->low[k];
        } else if (centroid) {
            for (size_t k = 0; k < d; k++)
                out[k] = query[k] - centroid[k] - s->low[k];
        } else {
            memcpy(out, query, 4 * d);
        }
    }
}

/* Compare one tile of `count` unpacked codes with the prepared queries of a group. */
FN void NAME(scan_tile)(const scan_t *s, const work_t *w, size_t pair, size_t nqueries,
                        size_t count, int64_t place)
{
    const uint32_t there = (uint32_t)((1ull << count) - 1);
    for (size_t i = 0; i < nqueries; i++) {
        const float *query = w->queries + i * s->stride;
        const VEC found = s->similarity ? NAME(tile_ip)(query, w->rows, s->stride, w->base[i])
                                        : NAME(tile_l2)(query, w->rows, s->stride);
        const size_t number = (size_t)s->pair_queries[pair + i];
        uint32_t bits = NAME(at_most_bits)(found, s->limits[number]) & there;
        for (; bits; bits &= bits - 1) {
            const int lane = __builtin_ctz(bits);
            keep(s, w, number, found[lane], place + lane);
        }
    }
}

/* All codes of one entry for all queries that want its list. */
FN void NAME(scan_entry)(const scan_t *s, work_t *w, size_t entry)
{
    const size_t size = (size_t)s->sizes[entry];
    const uint8_t *codes = s->codes + s->offsets[entry];
    const int64_t place = s->list_nos[entry] << PLACE_BITS | s->row_starts[entry];
    const size_t stop = (size_t)s->pair_starts[entry + 1];
    for (size_t pair = (size_t)s->pair_starts[entry]; pair < stop; pair += GROUP) {
        const size_t nqueries = stop - pair < GROUP ? stop - pair : GROUP;
        NAME(prepare_queries)(s, w, s->list_nos[entry], pair, nqueries);
        for (size_t row = 0; row < size; row += VL) {
            const size_t count = size - row < VL ? size - row : VL;
            NAME(unpack_tile)(s, codes + row * s->code_size, count, w->rows);
            NAME(scan_tile)(s, w, pair, nqueries, count, place + (int64_t)row);
        }
    }
}

FN void NAME(scan_entries)(const scan_t *s, work_t *w, size_t first, size_t stop)
{
    for (size_t entry = first; entry < stop; entry++)
        NAME(scan_entry)(s, w, entry);
}

#undef VL
#undef NAME
#undef FN
#undef INLINE
