/* Sums of a query's values where a sketch has bits, for each instruction set; for _sketch.c.
 *
 * A code's sum is taken in one order at one level, wherever the code stands.
 */

/* sums[i] = sum over planes j of 2^j times the sum of q where the plane has a bit. */
static void sums_base(const sketch_t *s, const view_t *v, const uint8_t *codes, size_t n,
                      float *sums)
{
    for (size_t i = 0; i < n; i++, codes += s->code_size) {
        float total = 0;
        for (size_t j = 0; j < s->bits; j++) {
            const uint8_t *plane = codes + j * s->plane_bytes;
            float sum = 0;
            for (size_t b = 0; b < s->plane_bytes; b++)
                sum += v->table[b * 256 + plane[b]];
            total += j ? 2 * sum : sum;
        }
        sums[i] = total;
    }
}

#if NATIVE_X86
/* A mask may reach one byte past its plane, into factors at most; q is zero there. */
AVX512_TARGET static inline __m512 plane_avx512(const view_t *v, const uint8_t *plane, size_t groups)
{
    __m512 sum = _mm512_setzero_ps();
    for (size_t g = 0; g < groups; g++) {
        uint16_t mask;
        memcpy(&mask, plane + 2 * g, 2);
        sum = _mm512_mask_add_ps(sum, mask, sum, _mm512_loadu_ps(v->q + g * LANES));
    }
    return sum;
}

AVX512_TARGET static inline __m512 code_avx512(const sketch_t *s, const view_t *v, const uint8_t *code)
{
    const __m512 low = plane_avx512(v, code, s->groups);
    if (s->bits == 1)
        return low;
    const __m512 high = plane_avx512(v, code + s->plane_bytes, s->groups);
    return _mm512_add_ps(low, _mm512_add_ps(high, high));
}

AVX512_TARGET static void sums_avx512(const sketch_t *s, const view_t *v, const uint8_t *codes, size_t n,
                        float *sums)
{
    const size_t size = s->code_size;
    size_t i = 0;
    for (; i + 4 <= n; i += 4, codes += 4 * size) { /* four chains of additions at a time */
        const __m512 a = code_avx512(s, v, codes), b = code_avx512(s, v, codes + size);
        const __m512 c = code_avx512(s, v, codes + 2 * size);
        const __m512 e = code_avx512(s, v, codes + 3 * size);
        sums[i] = _mm512_reduce_add_ps(a), sums[i + 1] = _mm512_reduce_add_ps(b);
        sums[i + 2] = _mm512_reduce_add_ps(c), sums[i + 3] = _mm512_reduce_add_ps(e);
    }
    for (; i < n; i++, codes += size)
        sums[i] = _mm512_reduce_add_ps(code_avx512(s, v, codes));
}

AVX2_TARGET static inline __m256 plane_avx2(const view_t *v, const uint8_t *plane, size_t bytes)
{
    const __m256i select = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256 sum = _mm256_setzero_ps();
    for (size_t b = 0; b < bytes; b++) {
        const __m256i bit = _mm256_and_si256(_mm256_set1_epi32(plane[b]), select);
        const __m256 mask = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bit, select));
        sum = _mm256_add_ps(sum, _mm256_and_ps(mask, _mm256_loadu_ps(v->q + b * 8)));
    }
    return sum;
}

AVX2_TARGET static void sums_avx2(const sketch_t *s, const view_t *v, const uint8_t *codes, size_t n,
                    float *sums)
{
    for (size_t i = 0; i < n; i++, codes += s->code_size) {
        __m256 all = plane_avx2(v, codes, s->plane_bytes);
        if (s->bits == 2) {
            const __m256 high = plane_avx2(v, codes + s->plane_bytes, s->plane_bytes);
            all = _mm256_add_ps(all, _mm256_add_ps(high, high));
        }
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
        four = _mm_add_ps(four, _mm_movehl_ps(four, four));
        sums[i] = _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
    }
}
#endif
