/* Kernels of _scan.c, included once per instruction set by _levels.h; hence no include guard.
 *
 * VL codes at a time are unpacked to rows of float32 in the first-level cache, and each query that
 * visits the list is compared with all of them there. If only one query visits the list, values go
 * from code to sum in registers. A distance is a sum over lanes, k = lane, lane + VL, ..., then over
 * the lanes in a tree. It depends on query and code alone, not on the other queries or codes.
 */

#include "_codes_kernels.h"

/* ------------------------------------------------------------------ unpacking */

/* Codes as rows of `stride` float32. */
#define UNPACK_ROWS(CODEC, unpack)                                                               \
    for (size_t i = 0; i < count; i++) {                                                         \
        const uint8_t *code = codes + i * s->code_size;                                          \
        float *row = rows + i * s->stride;                                                       \
        size_t k = 0;                                                                            \
        for (; k + VL <= whole; k += VL)                                                         \
            STORE(row + k, unpack(code, k));                                                     \
        for (; k < s->d; k++)                                                                    \
            row[k] = value_at(CODEC, code, k);                                                   \
    }

FN void NAME(unpack_tile)(const scan_t *s, const uint8_t *codes, size_t count, float *rows)
{
    /* Nothing behind the last code may be read. */
    const size_t whole = s->codec == CODEC_SQ6 && s->d < 32 ? 0 : s->d;
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

/* Squared distances to VL codes from a query less the codes' common part, or negated inner products of
 * VL codes with a query times the step. VALUES(i, k) gives VL values of code i from k on. */
#define DEFINE_TILE(name, PARAMETERS, VALUES)                                                    \
    FN VEC NAME(name##_l2)(const scan_t *s, const float *query, PARAMETERS)                      \
    {                                                                                            \
        VEC sums[VL];                                                                            \
        _Pragma("GCC unroll 16") for (int i = 0; i < VL; i++) sums[i] = (VEC){0};                \
        for (size_t k = 0; k < s->stride; k += VL) {                                             \
            const VEC q = LOAD(query + k), step = LOAD(s->step + k);                             \
            _Pragma("GCC unroll 16") for (int i = 0; i < VL; i++)                                \
            {                                                                                    \
                const VEC apart = q - step * VALUES(i, k);                                       \
                sums[i] += apart * apart;                                                        \
            }                                                                                    \
        }                                                                                        \
        return NAME(add_lanes)(sums);                                                            \
    }                                                                                            \
    FN VEC NAME(name##_ip)(const scan_t *s, const float *query, PARAMETERS)                      \
    {                                                                                            \
        VEC sums[VL];                                                                            \
        _Pragma("GCC unroll 16") for (int i = 0; i < VL; i++) sums[i] = (VEC){0};                \
        for (size_t k = 0; k < s->stride; k += VL) {                                             \
            const VEC q = LOAD(query + k);                                                       \
            _Pragma("GCC unroll 16") for (int i = 0; i < VL; i++) sums[i] -= q * VALUES(i, k);   \
        }                                                                                        \
        return NAME(add_lanes)(sums);                                                            \
    }

/* The same for unpacked codes, and for packed codes that have whole vectors of values. */
#define ROW_VALUES(i, k) LOAD(rows + (size_t)(i) * s->stride + (k))
#define FLAT_VALUES(i, k) NAME(unpack_flat)(code[i], k)
#define FP16_VALUES(i, k) NAME(unpack_fp16)(code[i], k)
#define SQ8_VALUES(i, k) NAME(unpack_sq8)(code[i], k)
#define SQ6_VALUES(i, k) NAME(unpack_sq6)(code[i], k)
#define SQ4_VALUES(i, k) NAME(unpack_sq4)(code[i], k)
DEFINE_TILE(rows, const float *rows, ROW_VALUES)
DEFINE_TILE(flat, const uint8_t *const *code, FLAT_VALUES)
DEFINE_TILE(fp16, const uint8_t *const *code, FP16_VALUES)
DEFINE_TILE(sq8, const uint8_t *const *code, SQ8_VALUES)
DEFINE_TILE(sq6, const uint8_t *const *code, SQ6_VALUES)
DEFINE_TILE(sq4, const uint8_t *const *code, SQ4_VALUES)

/* The same for `count` codes; the last one is repeated for missing ones. */
FN VEC NAME(compare_codes)(const scan_t *s, const float *query, const uint8_t *codes, size_t count)
{
    const uint8_t *code[VL];
    for (size_t i = 0; i < VL; i++)
        code[i] = codes + (i < count ? i : count - 1) * s->code_size;
    switch (2 * s->codec + !!s->similarity) {
    case 2 * CODEC_FLAT: return NAME(flat_l2)(s, query, code);
    case 2 * CODEC_FLAT + 1: return NAME(flat_ip)(s, query, code);
    case 2 * CODEC_FP16: return NAME(fp16_l2)(s, query, code);
    case 2 * CODEC_FP16 + 1: return NAME(fp16_ip)(s, query, code);
    case 2 * CODEC_SQ8: return NAME(sq8_l2)(s, query, code);
    case 2 * CODEC_SQ8 + 1: return NAME(sq8_ip)(s, query, code);
    case 2 * CODEC_SQ6: return NAME(sq6_l2)(s, query, code);
    case 2 * CODEC_SQ6 + 1: return NAME(sq6_ip)(s, query, code);
    case 2 * CODEC_SQ4: return NAME(sq4_l2)(s, query, code);
    default: return NAME(sq4_ip)(s, query, code);
    }
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

/* The first n pairs of a group: queries less the list's centroid and `low` (l2), or times `step`
 * (inner product, where what is the same for all codes goes into `base`). */
FN void NAME(prepare_queries)(const scan_t *s, work_t *w, int64_t list_no, size_t n)
{
    const size_t d = s->d;
    const float *centroid = s->centroids ? s->centroids + (size_t)list_no * d : NULL;
    for (size_t i = 0; i < n; i++) {
        const float *query = s->queries + (size_t)s->pair_queries[w->pairs[i]] * d;
        float *out = w->queries + i * s->stride;
        w->base[i] = s->pair_coarse ? s->pair_coarse[w->pairs[i]] : 0;
        if (s->similarity) {
            for (size_t k = 0; k < d; k++)
                out[k] = query[k] * s->step[k];
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

/* Store a query's values of one tile that are low enough. Its codes are at `place` and after it, or at
 * `rows` after it, where that is not NULL. */
FN void NAME(keep_tile)(const scan_t *s, const work_t *w, size_t query, float base, VEC found,
                        size_t count, int64_t place, const uint32_t *rows)
{
    found -= base;
    uint32_t bits = NAME(at_most_bits)(found, limit_at(s->limits + query)) & (uint32_t)((1ull << count) - 1);
    for (; bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        keep(s, w, query, found[lane], place + (rows ? (int64_t)rows[lane] : lane));
    }
}

/* Take up to VL visible codes of a run from *row on, side by side, and their rows; moves *row behind them.
 * Sets `count`, which is 0 if there are none. */
FN const uint8_t *NAME(visible_tile)(const scan_t *s, const work_t *w, const run_t *run,
                                     const uint8_t *visible, size_t *row, uint32_t *rows,
                                     size_t *count)
{
    const uint8_t *codes = s->codes + s->offsets[run->list];
    *count = next_rows(visible, (size_t)s->row_start, row, run->stop, VL, rows);
    if (*count && rows[*count - 1] - rows[0] == *count - 1)
        return codes + rows[0] * s->code_size;
    for (size_t i = 0; i < *count; i++)
        memcpy(w->codes + i * s->code_size, codes + rows[i] * s->code_size, s->code_size);
    return w->codes;
}

/* Scan codes of one list for the first n pairs of a group. */
FN void NAME(scan_group)(const scan_t *s, work_t *w, const run_t *run, size_t n)
{
    const uint8_t *codes = s->codes + s->offsets[run->list];
    const int64_t place = s->runs.numbers[run->list] << PLACE_BITS | s->row_start;
    const uint8_t *visible = bits_of(&s->runs, run->list);
    const int directly = n == 1 && s->d == s->stride && s->d >= 32;
    NAME(prepare_queries)(s, w, s->list_nos[run->list], n);
    uint32_t rows[VL];
    for (size_t row = run->row, next = row + VL; row < run->stop; row = next, next += VL) {
        const uint8_t *tile = codes + row * s->code_size;
        size_t count = at_most(run->stop - row, VL);
        if (visible) {
            next = row;
            tile = NAME(visible_tile)(s, w, run, visible, &next, rows, &count);
            if (!count)
                return;
        }
        const uint32_t *after = visible ? rows : NULL;
        const int64_t at = visible ? place : place + (int64_t)row;
        if (!directly)
            NAME(unpack_tile)(s, tile, count, w->rows);
        for (size_t i = 0; i < n; i++) {
            const float *query = w->queries + i * s->stride;
            const VEC found = directly        ? NAME(compare_codes)(s, query, tile, count)
                              : s->similarity ? NAME(rows_ip)(s, query, w->rows)
                                              : NAME(rows_l2)(s, query, w->rows);
            NAME(keep_tile)(s, w, (size_t)s->pair_queries[w->pairs[i]], w->base[i], found, count,
                            at, after);
        }
    }
}

/* Scan codes of one list, for the queries whose nearest list it is or for the others. */
FN void NAME(scan_rows)(const scan_t *s, work_t *w, const run_t *run)
{
    const size_t stop = (size_t)s->pair_starts[run->list + 1];
    const uint8_t *visible = bits_of(&s->runs, run->list);
    size_t n = 0;
    if (visible && !any_row(visible, (size_t)s->row_start, run->row, run->stop))
        return;
    for (size_t pair = (size_t)s->pair_starts[run->list]; pair < stop; pair++)
        if (!!s->pair_nearest[pair] == run->nearest) {
            w->pairs[n++] = pair;
            if (n == GROUP) {
                NAME(scan_group)(s, w, run, n);
                n = 0;
            }
        }
    if (n)
        NAME(scan_group)(s, w, run, n);
}

#undef DEFINE_TILE
#undef ROW_VALUES
#undef FLAT_VALUES
#undef FP16_VALUES
#undef SQ8_VALUES
#undef SQ6_VALUES
#undef SQ4_VALUES
#undef VL
#undef NAME
#undef FN
#undef INLINE
