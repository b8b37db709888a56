/* Estimates of a block of sketches for some views, for each instruction set; for _sketch.c.
 *
 * A word holds 32 dimensions of one code, in four bytes. Step t of a word takes bit t of each byte:
 * four dimensions, whose values of the query lie side by side in view_t.q. Sums are of integers, so
 * the order in which they are taken does not matter.
 */

static inline float estimate_of(const view_t *v, float f, float n, int32_t sum)
{
    return v->base + n * v->square - f * v->step * (float)(2 * sum - v->offset);
}

static inline int32_t looked_up(const int32_t *table, uint32_t word)
{
    return table[word & 255] + table[256 + (word >> 8 & 255)] + table[512 + (word >> 16 & 255)] +
           table[768 + (word >> 24)];
}

static void estimates_base(const sketch_t *s, const view_t *v, size_t nv, const block_t *b,
                           float *out)
{
    for (size_t j = 0; j < nv; j++, out += BLOCK)
        for (size_t i = 0; i < b->count; i++) {
            int32_t sum = 0;
            for (size_t w = 0; w < s->words; w++) {
                const int32_t *table = v[j].table + w * 4 * 256;
                sum += looked_up(table, b->words[w * BLOCK + i]);
                if (s->bits == 2)
                    sum += 2 * looked_up(table, b->words[(s->words + w) * BLOCK + i]);
            }
            out[i] = estimate_of(v + j, b->f[i], b->n[i], sum);
        }
}

#if NATIVE_X86
#define ALWAYS_INLINE __attribute__((always_inline)) static inline

/* Of 8 steps, the sums of two neighbouring products of at most 3 * 127 fit 16 bits. */
AVX512_TARGET ALWAYS_INLINE void some_avx512(const sketch_t *s, const view_t *v, const size_t nv,
                                             const int two, const block_t *b, float *out)
{
    const __m512i one = _mm512_set1_epi8(1), upper = _mm512_set1_epi8(2);
    for (size_t i = 0; i < b->count; i += 16) {
        __m512i sum[4];
        for (size_t j = 0; j < nv; j++)
            sum[j] = _mm512_setzero_si512();
        for (size_t w = 0; w < s->words; w++) {
            const __m512i low = _mm512_loadu_si512(b->words + w * BLOCK + i);
            __m512i high = low, part[4];
            if (two)
                high = _mm512_loadu_si512(b->words + (s->words + w) * BLOCK + i);
            for (size_t j = 0; j < nv; j++)
                part[j] = _mm512_setzero_si512();
#pragma GCC unroll 8
            for (unsigned t = 0; t < 8; t++) {
                __m512i u = _mm512_and_si512(_mm512_srli_epi32(low, t), one);
                if (two) {
                    const __m512i h =
                        t ? _mm512_srli_epi32(high, t ? t - 1 : 0) : _mm512_slli_epi32(high, 1);
                    u = _mm512_or_si512(u, _mm512_and_si512(h, upper));
                }
                for (size_t j = 0; j < nv; j++) {
                    const __m512i q = _mm512_set1_epi32(v[j].q[w * 8 + t]);
                    part[j] = _mm512_add_epi16(part[j], _mm512_maddubs_epi16(u, q));
                }
            }
            for (size_t j = 0; j < nv; j++)
                sum[j] = _mm512_add_epi32(
                    sum[j], _mm512_madd_epi16(part[j], _mm512_set1_epi16(1)));
        }
        const __m512 f = _mm512_loadu_ps(b->f + i), n = _mm512_loadu_ps(b->n + i);
        for (size_t j = 0; j < nv; j++) {
            const __m512i twice = _mm512_add_epi32(sum[j], sum[j]);
            const __m512 dot = _mm512_cvtepi32_ps(
                _mm512_sub_epi32(twice, _mm512_set1_epi32(v[j].offset)));
            const __m512 base =
                _mm512_fmadd_ps(n, _mm512_set1_ps(v[j].square), _mm512_set1_ps(v[j].base));
            const __m512 scaled = _mm512_mul_ps(f, _mm512_set1_ps(v[j].step));
            _mm512_storeu_ps(out + j * BLOCK + i, _mm512_fnmadd_ps(scaled, dot, base));
        }
    }
}

AVX512_TARGET static void estimates_avx512(const sketch_t *s, const view_t *v, size_t nv,
                                           const block_t *b, float *out)
{
    for (; nv >= 4; nv -= 4, v += 4, out += 4 * BLOCK)
        s->bits == 2 ? some_avx512(s, v, 4, 1, b, out) : some_avx512(s, v, 4, 0, b, out);
    for (; nv; nv--, v++, out += BLOCK)
        s->bits == 2 ? some_avx512(s, v, 1, 1, b, out) : some_avx512(s, v, 1, 0, b, out);
}

AVX2_TARGET ALWAYS_INLINE void some_avx2(const sketch_t *s, const view_t *v, const size_t nv,
                                         const int two, const block_t *b, float *out)
{
    const __m256i one = _mm256_set1_epi8(1), upper = _mm256_set1_epi8(2);
    for (size_t i = 0; i < b->count; i += 8) {
        __m256i sum[2];
        for (size_t j = 0; j < nv; j++)
            sum[j] = _mm256_setzero_si256();
        for (size_t w = 0; w < s->words; w++) {
            const __m256i low = _mm256_loadu_si256((const void *)(b->words + w * BLOCK + i));
            __m256i high = low, part[2];
            if (two)
                high = _mm256_loadu_si256((const void *)(b->words + (s->words + w) * BLOCK + i));
            for (size_t j = 0; j < nv; j++)
                part[j] = _mm256_setzero_si256();
#pragma GCC unroll 8
            for (int t = 0; t < 8; t++) {
                __m256i u = _mm256_and_si256(_mm256_srli_epi32(low, t), one);
                if (two) {
                    const __m256i h =
                        t ? _mm256_srli_epi32(high, t ? t - 1 : 0) : _mm256_slli_epi32(high, 1);
                    u = _mm256_or_si256(u, _mm256_and_si256(h, upper));
                }
                for (size_t j = 0; j < nv; j++) {
                    const __m256i q = _mm256_set1_epi32(v[j].q[w * 8 + (size_t)t]);
                    part[j] = _mm256_add_epi16(part[j], _mm256_maddubs_epi16(u, q));
                }
            }
            for (size_t j = 0; j < nv; j++)
                sum[j] = _mm256_add_epi32(
                    sum[j], _mm256_madd_epi16(part[j], _mm256_set1_epi16(1)));
        }
        const __m256 f = _mm256_loadu_ps(b->f + i), n = _mm256_loadu_ps(b->n + i);
        for (size_t j = 0; j < nv; j++) {
            const __m256i twice = _mm256_add_epi32(sum[j], sum[j]);
            const __m256 dot = _mm256_cvtepi32_ps(
                _mm256_sub_epi32(twice, _mm256_set1_epi32(v[j].offset)));
            const __m256 base =
                _mm256_fmadd_ps(n, _mm256_set1_ps(v[j].square), _mm256_set1_ps(v[j].base));
            const __m256 scaled = _mm256_mul_ps(f, _mm256_set1_ps(v[j].step));
            _mm256_storeu_ps(out + j * BLOCK + i, _mm256_fnmadd_ps(scaled, dot, base));
        }
    }
}

AVX2_TARGET static void estimates_avx2(const sketch_t *s, const view_t *v, size_t nv,
                                       const block_t *b, float *out)
{
    for (; nv >= 2; nv -= 2, v += 2, out += 2 * BLOCK)
        s->bits == 2 ? some_avx2(s, v, 2, 1, b, out) : some_avx2(s, v, 2, 0, b, out);
    if (nv)
        s->bits == 2 ? some_avx2(s, v, 1, 1, b, out) : some_avx2(s, v, 1, 0, b, out);
}
#endif
