/* Finer codes, and the places of vectors; for _scan.c and _refine.c.
 *
 * Codes are those of Faiss: float32, float16, and scalar quantizers of residuals with 8, 6 or 4 bits,
 * where value i of a code means low[i] + step[i] * value.
 */

/* A place names a vector: number of its run << PLACE_BITS | row within the run. A list of one run has the
 * same number as the run. */
enum { PLACE_BITS = 32 };

enum { CODEC_FLAT, CODEC_FP16, CODEC_SQ8, CODEC_SQ6, CODEC_SQ4, CODECS };

static const size_t BITS_OF[CODECS] = {32, 16, 8, 6, 4};

static float half_to_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t bits;
    float value;
    if (rest < 0x400) { /* zero or subnormal: rest * 2^-24 */
        value = (float)rest * 0x1p-24f;
        memcpy(&bits, &value, 4);
    } else if (rest < 0x7c00) {
        bits = (rest << 13) + ((uint32_t)112 << 23);
    } else {
        bits = 0x7f800000 | (rest & 0x3ff) << 13;
    }
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
}

/* Value k of a code. */
static inline float value_at(int codec, const uint8_t *code, size_t k)
{
    uint32_t bits;
    uint16_t half;
    float value;
    switch (codec) {
    case CODEC_FLAT: memcpy(&value, code + 4 * k, 4); return value;
    case CODEC_FP16: memcpy(&half, code + 2 * k, 2); return half_to_float(half);
    case CODEC_SQ8: return code[k];
    case CODEC_SQ4: return (float)(code[k / 2] >> (k % 2 * 4) & 15);
    default:
        bits = code[6 * k / 8];
        if (6 * k % 8 > 2) /* its upper bits are in the next byte */
            bits |= (uint32_t)code[6 * k / 8 + 1] << 8;
        return (float)(bits >> 6 * k % 8 & 63);
    }
}

/* An optional buffer of floats: NULL for None. */
static int take_floats(buffers_t *all, PyObject *object, const char *name, const float **out,
                       size_t *length)
{
    *out = NULL, *length = 0;
    if (object == Py_None)
        return 1;
    *out = take(all, object, name, 'f', 0, length);
    return *out != NULL;
}
