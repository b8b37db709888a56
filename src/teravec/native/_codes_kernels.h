/* Unpacking finer codes to vectors of float32, for _scan_kernels.h and _refine_kernels.h. Included
 * once per instruction set, with their VL, NAME, FN and INLINE; hence no include guard.
 */

VECTOR_TYPES

#if !NATIVE_X86 || VL == 4
INLINE VEC NAME(unpack_slowly)(int codec, const uint8_t *code, size_t k)
{
    VEC values;
    for (int lane = 0; lane < VL; lane++)
        values[lane] = value_at(codec, code, k + (size_t)lane);
    return values;
}
#endif

/* ------------------------------------------------------------------ unpacking */

/* VL values of a code, from value k on, k a multiple of VL. */
INLINE VEC NAME(unpack_fp16)(const uint8_t *code, size_t k)
{
#if NATIVE_X86 && VL == 16
    return (VEC)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)(code + 2 * k)));
#elif NATIVE_X86 && VL == 8
    return (VEC)_mm256_cvtph_ps(_mm_loadu_si128((const void *)(code + 2 * k)));
#else
    return NAME(unpack_slowly)(CODEC_FP16, code, k);
#endif
}

INLINE VEC NAME(unpack_sq8)(const uint8_t *code, size_t k)
{
#if NATIVE_X86 && VL == 16
    const __m128i bytes = _mm_loadu_si128((const void *)(code + k));
    return (VEC)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
#elif NATIVE_X86 && VL == 8
    const __m128i bytes = _mm_loadl_epi64((const void *)(code + k));
    return (VEC)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
#else
    return NAME(unpack_slowly)(CODEC_SQ8, code, k);
#endif
}

INLINE VEC NAME(unpack_sq4)(const uint8_t *code, size_t k)
{
#if NATIVE_X86 && VL > 4
#if VL == 16
    const __m128i pairs = _mm_loadl_epi64((const void *)(code + k / 2));
#else
    int32_t word;
    memcpy(&word, code + k / 2, 4);
    const __m128i pairs = _mm_cvtsi32_si128(word);
#endif
    const __m128i low = _mm_set1_epi8(15);
    const __m128i bytes = _mm_unpacklo_epi8(_mm_and_si128(pairs, low),
                                            _mm_and_si128(_mm_srli_epi16(pairs, 4), low));
#if VL == 16
    return (VEC)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
#else
    return (VEC)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
#endif
#else
    return NAME(unpack_slowly)(CODEC_SQ4, code, k);
#endif
}

/* Three bytes hold four values, the first in the lowest bits. Each 32-bit lane takes the two bytes
 * with its six bits, and shifts them down. */
INLINE VEC NAME(unpack_sq6)(const uint8_t *code, size_t k)
{
#if NATIVE_X86 && VL == 16
    /* Sixteen bytes are loaded, which is one operation less than twelve: the twelve first, or the
     * twelve last with four of the values before. All are the code's own where it has 32 values;
     * of fewer, four bytes behind the code are read. */
    const __m512i first = _mm512_set_epi8(
        -1, -1, -1, 11, -1, -1, 11, 10, -1, -1, 10, 9, -1, -1, 10, 9, -1, -1, -1, 8, -1, -1, 8, 7,
        -1, -1, 7, 6, -1, -1, 7, 6, -1, -1, -1, 5, -1, -1, 5, 4, -1, -1, 4, 3, -1, -1, 4, 3, -1, -1,
        -1, 2, -1, -1, 2, 1, -1, -1, 1, 0, -1, -1, 1, 0);
    const __m512i pick = k ? _mm512_add_epi8(first, _mm512_set1_epi32(0x0404)) : first;
    const __m512i shift = _mm512_set_epi32(2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6, 0);
    const __m128i packed = _mm_loadu_si128((const void *)(code + k / 4 * 3 - (k ? 4 : 0)));
    const __m512i bytes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(packed), pick);
    const __m512i values = _mm512_srlv_epi32(bytes, shift);
    return (VEC)_mm512_cvtepi32_ps(_mm512_and_si512(values, _mm512_set1_epi32(63)));
#elif NATIVE_X86 && VL == 8
    const __m256i pick =
        _mm256_set_epi8(-1, -1, -1, 5, -1, -1, 5, 4, -1, -1, 4, 3, -1, -1, 4, 3, -1, -1, -1, 2, -1,
                        -1, 2, 1, -1, -1, 1, 0, -1, -1, 1, 0);
    const __m256i shift = _mm256_set_epi32(2, 4, 6, 0, 2, 4, 6, 0);
    uint32_t low;
    uint16_t high; /* six bytes by two loads: a copy to memory and back would wait for itself */
    memcpy(&low, code + k / 4 * 3, 4);
    memcpy(&high, code + k / 4 * 3 + 4, 2);
    const __m128i packed = _mm_cvtsi64_si128((int64_t)((uint64_t)high << 32 | low));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(packed), pick);
    const __m256i values = _mm256_srlv_epi32(bytes, shift);
    return (VEC)_mm256_cvtepi32_ps(_mm256_and_si256(values, _mm256_set1_epi32(63)));
#else
    return NAME(unpack_slowly)(CODEC_SQ6, code, k);
#endif
}

INLINE VEC NAME(unpack_flat)(const uint8_t *code, size_t k)
{
    VEC values;
    memcpy(&values, code + 4 * k, sizeof values);
    return values;
}

/* ------------------------------------------------------------------ sums of lanes */

/* Sums of pairs of neighbouring lanes: a's sums in the lower half, b's in the upper. */
FN VEC NAME(add_pairs)(VEC a, VEC b)
{
#if VL == 16
    const IVEC even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    const IVEC odd = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
#elif VL == 8
    const IVEC even = {0, 2, 4, 6, 8, 10, 12, 14}, odd = {1, 3, 5, 7, 9, 11, 13, 15};
#else
    const IVEC even = {0, 2, 4, 6}, odd = {1, 3, 5, 7};
#endif
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
}
