/* Kernels of _native.c, included once per instruction set; hence no include guard.
 *
 * Before including, define
 *   VL        float32 lanes of a vector register (4, 8 or 16)
 *   NAME(x)   x with the instruction set's suffix
 *   FN        storage class and target attribute of every function
 *
 * A panel holds PW = 2 * VL centroids, transposed: element k of all PW, then element k + 1. A tile
 * is six rows by one panel: twelve accumulators, two panel vectors and one broadcast fit sixteen
 * registers. Every dot product is one chain over k = 0..d-1 in one lane, so a score depends on its
 * row and centroid alone: not on the tile, the block or the thread that computes it.
 */

#define PW (2 * VL)

VECTOR_TYPES
#define SPLAT(s) ((VEC){0} + (s))

/* a * b + c of single floats, rounded as vectors of the level are: once, where it has fused operations. It
 * is written out, because a compiler may compute all products first. */
#if (NATIVE_X86 && VL > 4) || defined(__FP_FAST_FMAF)
#define FUSED(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FUSED(a, b, c) ((a) * (b) + (c))
#endif

/* SELECT: m ? a : b by lane, of float vectors. LESS_BITS, LESS_EQUAL_BITS: one bit per lane. */
#if NATIVE_X86 && VL == 16
#define LESS_BITS(a, b) ((uint32_t)_mm512_cmp_ps_mask((__m512)(a), (__m512)(b), _CMP_LT_OQ))
#define LESS_EQUAL_BITS(a, b) ((uint32_t)_mm512_cmp_ps_mask((__m512)(a), (__m512)(b), _CMP_LE_OQ))
#define MINIMUM(a, b) ((VEC)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define MAXIMUM(a, b) ((VEC)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define KEEP_LESS(s, best, at, now)                                                              \
    do {                                                                                         \
        const __mmask16 less = _mm512_cmp_ps_mask((__m512)(s), (__m512)(best), _CMP_LT_OQ);      \
        best = (VEC)_mm512_mask_blend_ps(less, (__m512)(best), (__m512)(s));                     \
        at = (IVEC)_mm512_mask_blend_epi32(less, (__m512i)(at), (__m512i)(now));                 \
    } while (0)
#elif NATIVE_X86 && VL == 8
#define LESS_BITS(a, b)                                                                          \
    ((uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)(a), (__m256)(b), _CMP_LT_OQ)))
#define LESS_EQUAL_BITS(a, b)                                                                    \
    ((uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)(a), (__m256)(b), _CMP_LE_OQ)))
#define MINIMUM(a, b) ((VEC)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define MAXIMUM(a, b) ((VEC)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define KEEP_LESS(s, best, at, now)                                                              \
    do {                                                                                         \
        const __m256 less = _mm256_cmp_ps((__m256)(s), (__m256)(best), _CMP_LT_OQ);              \
        best = (VEC)_mm256_blendv_ps((__m256)(best), (__m256)(s), less);                         \
        at = (IVEC)_mm256_blendv_ps((__m256)(at), (__m256)(now), less);                          \
    } while (0)
#else
#define SELECT(m, a, b) ((VEC)(((m) & (IVEC)(a)) | (~(m) & (IVEC)(b))))
#define LESS_BITS(a, b) NAME(lane_bits)((a) < (b))
#define LESS_EQUAL_BITS(a, b) NAME(lane_bits)((a) <= (b))
#define MINIMUM(a, b) SELECT((a) < (b), a, b)
#define MAXIMUM(a, b) SELECT((a) < (b), b, a)
#define KEEP_LESS(s, best, at, now)                                                              \
    do {                                                                                         \
        const IVEC less = (s) < (best);                                                          \
        best = SELECT(less, s, best);                                                            \
        at = (less & (now)) | (~less & (at));                                                    \
    } while (0)

FN uint32_t NAME(lane_bits)(IVEC mask)
{
    uint32_t bits = 0;
    for (int lane = 0; lane < VL; lane++)
        bits |= (uint32_t)(mask[lane] & 1) << lane;
    return bits;
}
#endif

/* ------------------------------------------------------------------ tiles */

#define ROWS_6(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define ROWS_2(DO) DO(0) DO(1)
#define ROW_POINTER(r) const float *const x##r = rows[r];
#define ROW_START(r) VEC a##r = h0, b##r = h1;
#define ROW_STEP(r)                                                                              \
    {                                                                                            \
        const float s = x##r[k];                                                                 \
        a##r -= c0 * s;                                                                          \
        b##r -= c1 * s;                                                                          \
    }
#define ROW_KEEP(r)                                                                              \
    KEEP_LESS(a##r, best[r][0], at[r][0], now);                                                  \
    KEEP_LESS(b##r, best[r][1], at[r][1], now);
#define ROW_STORE(r)                                                                             \
    STORE(out + (r) * stride + p * PW, a##r);                                                    \
    STORE(out + (r) * stride + p * PW + VL, b##r);

/* Scores |c|^2 / 2 - x.c of the rows against panel p, in a0, b0, a1, b1, ... */
#define PANEL_SCORES(ROWS)                                                                       \
    const float *c = panels + p * d * PW;                                                        \
    const VEC h0 = LOAD(half + p * PW), h1 = LOAD(half + p * PW + VL);                           \
    ROWS(ROW_START)                                                                              \
    for (size_t k = 0; k < d; k++, c += PW) {                                                    \
        const VEC c0 = LOAD(c), c1 = LOAD(c + VL);                                               \
        ROWS(ROW_STEP)                                                                           \
    }

/* tile_best: lowest score over the panels and its position, the lowest position on a tie; +inf if no
 * score is as low as the row's entry in `score`. */
#define DEFINE_TILE_BEST(M)                                                                      \
    FN void NAME(tile_best_##M)(const float *const *rows, size_t d, const float *panels,         \
                                const float *half, size_t npanels, float *score,                 \
                                uint32_t *position)                                              \
    {                                                                                            \
        VEC best[M][2];                                                                          \
        IVEC at[M][2];                                                                           \
        for (int r = 0; r < M; r++) {                                                            \
            best[r][0] = best[r][1] = SPLAT(INFINITY);                                           \
            at[r][0] = at[r][1] = (IVEC){0};                                                     \
        }                                                                                        \
        ROWS_##M(ROW_POINTER) for (size_t p = 0; p < npanels; p++)                               \
        {                                                                                        \
            PANEL_SCORES(ROWS_##M)                                                               \
            const IVEC now = (IVEC){0} + (int32_t)p;                                             \
            ROWS_##M(ROW_KEEP)                                                                   \
        }                                                                                        \
        for (int r = 0; r < M; r++)                                                              \
            NAME(reduce)((const float *)best[r], (const int32_t *)at[r], score + r,              \
                         position + r);                                                          \
    }

/* Lowest score of the lanes and its position, panel * PW + lane. `score` is the row's best so far: if
 * no lane is as low, which is usual for a group, the lanes are not searched. */
FN void NAME(reduce)(const float *best, const int32_t *at, float *score, uint32_t *position)
{
    const VEC low = MINIMUM(LOAD(best), LOAD(best + VL));
    if (!LESS_EQUAL_BITS(low, SPLAT(*score))) {
        *score = INFINITY;
        *position = 0;
        return;
    }
    float lowest = low[0];
    for (int lane = 1; lane < VL; lane++)
        lowest = low[lane] < lowest ? low[lane] : lowest;
    const VEC all = SPLAT(lowest);
    uint32_t equal = LESS_EQUAL_BITS(LOAD(best), all) | LESS_EQUAL_BITS(LOAD(best + VL), all) << VL;
    uint32_t found = UINT32_MAX;
    for (; equal; equal &= equal - 1) {
        const uint32_t lane = (uint32_t)__builtin_ctz(equal);
        const uint32_t here = (uint32_t)at[lane] * PW + lane;
        found = here < found ? here : found;
    }
    *score = lowest;
    *position = found;
}

DEFINE_TILE_BEST(6)
DEFINE_TILE_BEST(2)

/* tile_store: every score, row r's at out + r * stride. */
FN void NAME(tile_store_6)(const float *const *rows, size_t d, const float *panels,
                           const float *half, size_t npanels, float *out, size_t stride)
{
    ROWS_6(ROW_POINTER)
    for (size_t p = 0; p < npanels; p++) {
        PANEL_SCORES(ROWS_6)
        ROWS_6(ROW_STORE)
    }
}

enum { NAME(PANELS) = 4 };

/* Scores of one row against all panels, as in score_rows. Four panels at a time, because the additions
 * of one panel would wait for each other. */
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

/* Scores of n rows against all panels: row i's at out + i * stride, stride = npanels * PW. More than
 * one row is written six at a time, so `out` needs room for the next multiple of six. */
FN void NAME(score_rows)(const float *x, size_t n, size_t d, const float *packed, const float *half,
                         size_t stride, float *out)
{
    const size_t npanels = stride / PW;
    if (n == 1) {
        NAME(score_row)(x, d, packed, half, npanels, out);
        return;
    }
    size_t run = RUN_BYTES / (d * PW * 4);
    run = run ? run : 1;
    for (size_t p = 0; p < npanels; p += run) {
        const size_t count = npanels - p < run ? npanels - p : run;
        for (size_t i = 0; i < n; i += 6) {
            const float *pointer[6];
            for (size_t r = 0; r < 6; r++)
                pointer[r] = x + (i + r < n ? i + r : n - 1) * d;
            NAME(tile_store_6)(pointer, d, packed + p * d * PW, half + p * PW, count,
                               out + i * stride + p * PW, stride);
        }
    }
}

/* ------------------------------------------------------------------ rows against panels */

FN void NAME(prefetch_row)(const float *x, size_t d)
{
    const size_t n = d < 256 ? d : 256; /* longer rows are streams that the hardware follows */
    for (size_t k = 0; k < n; k += 16)
        __builtin_prefetch(x + k);
}

/* Lower each row's best (score, list number) with the panels' centroids. rows NULL: row numbers
 * are first..first + nrows - 1. ids NULL: list numbers are position + id_base. */
FN void NAME(scan)(const float *x, size_t d, const uint32_t *rows, size_t first, size_t nrows,
                   const float *panels, const float *half, size_t npanels, const int32_t *ids,
                   size_t id_base, float *out_score, int32_t *out_list)
{
    for (size_t i = 0; i < nrows; i += 6) {
        const size_t m = nrows - i < 6 ? nrows - i : 6;
        size_t row[6];
        const float *pointer[6];
        float score[6];
        uint32_t position[6];
        for (size_t r = 0; r < 6; r++) { /* a short tile repeats its last row */
            const size_t j = i + (r < m ? r : m - 1);
            row[r] = rows ? rows[j] : first + j;
            pointer[r] = x + row[r] * d;
            score[r] = out_score[row[r]];
        }
        if (rows)
            for (size_t j = i + 6; j < i + 12 && j < nrows; j++)
                NAME(prefetch_row)(x + (size_t)rows[j] * d, d);
        if (m > 2)
            NAME(tile_best_6)(pointer, d, panels, half, npanels, score, position);
        else
            NAME(tile_best_2)(pointer, d, panels, half, npanels, score, position);
        for (size_t r = 0; r < m; r++) {
            const int32_t list =
                ids ? ids[position[r]] : (int32_t)(id_base + position[r]);
            float *const best = out_score + row[r];
            int32_t *const best_list = out_list + row[r];
            if (score[r] < *best || (score[r] == *best && list < *best_list)) {
                *best = score[r];
                *best_list = list;
            }
        }
    }
}

/* As scan, in runs of panels that fit the second-level cache. */
FN void NAME(scan_runs)(const float *x, size_t d, const uint32_t *rows, size_t first, size_t nrows,
                        const float *panels, const float *half, size_t npanels, const int32_t *ids,
                        float *out_score, int32_t *out_list)
{
    size_t run = RUN_BYTES / (d * PW * 4);
    run = run ? run : 1;
    for (size_t p = 0; p < npanels; p += run) {
        const size_t count = npanels - p < run ? npanels - p : run;
        NAME(scan)(x, d, rows, first, nrows, panels + p * d * PW, half + p * PW, count,
                   ids ? ids + p * PW : NULL, p * PW, out_score, out_list);
    }
}

/* |x|^2 in sixteen sums, which are added one after another, then the rest: the same roundings at
 * every level that fuses products and sums. */
FN float NAME(squared_norm)(const float *x, size_t d)
{
    enum { LANES = 16 };
    VEC sums[LANES / VL] = {{0}};
    size_t k = 0;
    for (; k + LANES <= d; k += LANES)
        for (size_t i = 0; i < LANES / VL; i++)
            sums[i] += LOAD(x + k + i * VL) * LOAD(x + k + i * VL);
    float total = 0;
    for (size_t lane = 0; lane < LANES; lane++)
        total += sums[lane / VL][lane % VL];
    for (; k < d; k++)
        total = FUSED(x[k], x[k], total);
    return total;
}

/* Turn scores into squared distances in place: |x|^2 + 2 (|c|^2 / 2 - x.c), at least zero. */
FN void NAME(distances)(const float *x, size_t d, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        const float value = NAME(squared_norm)(x + i * d, d) + 2 * out[i];
        out[i] = value < 0 ? 0 : value;
    }
}

FN void NAME(assign_exact)(const float *x, size_t n, size_t d, const float *packed,
                           const float *half, size_t npanels, int32_t *out_list, float *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = INFINITY;
        out_list[i] = 0;
    }
    for (size_t i = 0; i < n; i += EXACT_ROWS) {
        const size_t count = n - i < EXACT_ROWS ? n - i : EXACT_ROWS;
        NAME(scan_runs)(x, d, NULL, i, count, packed, half, npanels, NULL, out, out_list);
    }
    NAME(distances)(x, d, n, out);
}

/* ------------------------------------------------------------------ groups */

/* Mean of the lowest and the fourth lowest of m scores, m a multiple of PW. */
FN float NAME(reference_score)(const float *scores, size_t m)
{
    VEC low[4];
    for (int i = 0; i < 4; i++)
        low[i] = SPLAT(INFINITY);
    for (size_t j = 0; j < m; j += VL) {
        VEC s = LOAD(scores + j), t;
        t = MAXIMUM(low[0], s), low[0] = MINIMUM(low[0], s), s = t;
        t = MAXIMUM(low[1], s), low[1] = MINIMUM(low[1], s), s = t;
        t = MAXIMUM(low[2], s), low[2] = MINIMUM(low[2], s), s = t;
        low[3] = MINIMUM(low[3], s);
    }
    float b0 = INFINITY, b1 = INFINITY, b2 = INFINITY, b3 = INFINITY;
    for (int i = 0; i < 4; i++)
        for (int lane = 0; lane < VL; lane++) {
            float s = low[i][lane], t;
            t = b0 > s ? b0 : s, b0 = b0 < s ? b0 : s, s = t;
            t = b1 > s ? b1 : s, b1 = b1 < s ? b1 : s, s = t;
            t = b2 > s ? b2 : s, b2 = b2 < s ? b2 : s, s = t;
            b3 = b3 < s ? b3 : s;
        }
    return 0.5f * (b0 + b3);
}

/* Find groups whose score is at most the limit; returns their number. */
FN size_t NAME(select_groups)(const float *scores, size_t ngroups, float limit, uint32_t *out)
{
    const VEC all = SPLAT(limit);
    size_t count = 0;
    for (size_t j = 0; j < ngroups; j += VL) { /* scores are padded to PW */
        uint32_t bits = LESS_EQUAL_BITS(LOAD(scores + j), all);
        for (; bits; bits &= bits - 1) {
            const size_t group = j + (size_t)__builtin_ctz(bits);
            out[count] = (uint32_t)group;
            count += group < ngroups;
        }
    }
    return count;
}

/* Sort the scratch's (row, group) pairs by group and scan each group with its rows. */
FN void NAME(scan_pairs)(const float *x, const grouped_t *g, scratch_t *w, size_t first,
                         size_t nrows, float *out_score, int32_t *out_list)
{
    memset(w->group_end, 0, g->ngroups * sizeof *w->group_end);
    const size_t npairs = w->row_end[nrows - 1];
    for (size_t j = 0; j < npairs; j++)
        w->group_end[w->pair_group[j]]++;
    size_t total = 0;
    for (size_t j = 0; j < g->ngroups; j++) { /* counts to starts; the scatter makes them ends */
        const uint32_t count = w->group_end[j];
        w->group_end[j] = (uint32_t)total;
        total += count;
    }
    for (size_t i = 0, j = 0; i < nrows; i++)
        for (; j < w->row_end[i]; j++)
            w->pair_row[w->group_end[w->pair_group[j]]++] = (uint32_t)(first + i);
    size_t start = 0;
    for (size_t j = 0; j < g->ngroups; j++) {
        const size_t panel = (size_t)g->starts[j], npanels = (size_t)g->starts[j + 1] - panel;
        const size_t end = w->group_end[j];
        if (end > start && npanels)
            NAME(scan_runs)(x, g->d, w->pair_row + start, 0, end - start,
                            g->packed + panel * g->d * PW, g->half + panel * PW, npanels,
                            g->ids + panel * PW, out_score, out_list);
        start = end;
    }
}

FN void NAME(assign_grouped)(const float *x, size_t n, const grouped_t *g, scratch_t *w,
                             int32_t *out_list, float *out)
{
    const size_t stride = w->stride;
    size_t first = 0, npairs = 0;
    for (size_t i = 0; i < n; i++) {
        out[i] = INFINITY;
        out_list[i] = 0;
    }
    for (size_t i = 0; i < n; i += w->score_rows) {
        const size_t m = n - i < w->score_rows ? n - i : w->score_rows;
        NAME(score_rows)(x + i * g->d, m, g->d, g->centers, g->center_half, stride, w->scores);
        for (size_t r = 0; r < m; r++) {
            const float *scores = w->scores + r * stride;
            const float limit = NAME(reference_score)(scores, stride) + g->margin;
            const size_t row = i + r - first;
            npairs += NAME(select_groups)(scores, g->ngroups, limit, w->pair_group + npairs);
            w->row_end[row] = (uint32_t)npairs;
            if (row + 1 == w->max_rows || npairs + g->ngroups + 1 > w->max_pairs) {
                NAME(scan_pairs)(x, g, w, first, row + 1, out, out_list);
                first = i + r + 1;
                npairs = 0;
            }
        }
    }
    if (first < n)
        NAME(scan_pairs)(x, g, w, first, n - first, out, out_list);
    NAME(distances)(x, g->d, n, out);
}

/* ------------------------------------------------------------------ sums */

/* Returns 0, or -1 if a list number is not below nlist. */
FN int NAME(accumulate)(const float *x, const float *weights, size_t n, size_t d,
                        const int32_t *list_no, size_t nlist, double *sums, int64_t *counts,
                        size_t col_start, size_t col_stop)
{
    for (size_t i = 0; i < n; i++) {
        const size_t list = (size_t)(uint32_t)list_no[i];
        if (list >= nlist)
            return -1;
        if (i + 4 < n && (size_t)(uint32_t)list_no[i + 4] < nlist) {
            const double *next = sums + (size_t)list_no[i + 4] * d;
            for (size_t k = col_start; k < col_stop; k += 8)
                __builtin_prefetch(next + k, 1);
        }
        const float *row = x + i * d;
        double *sum = sums + list * d;
        if (weights) { /* a product of two floats is exact in a double */
            const double weight = weights[i];
            for (size_t k = col_start; k < col_stop; k++)
                sum[k] += weight * row[k];
        } else
            for (size_t k = col_start; k < col_stop; k++)
                sum[k] += row[k];
        if (counts)
            counts[list]++;
    }
    return 0;
}

#include "_nearest_kernels.h"

#undef PW
#undef SPLAT
#undef FUSED
#undef SELECT
#undef LESS_BITS
#undef LESS_EQUAL_BITS
#undef MINIMUM
#undef MAXIMUM
#undef KEEP_LESS
#undef ROWS_6
#undef ROWS_2
#undef ROW_POINTER
#undef ROW_START
#undef ROW_STEP
#undef ROW_KEEP
#undef ROW_STORE
#undef PANEL_SCORES
#undef DEFINE_TILE_BEST
#undef VL
#undef NAME
#undef FN
