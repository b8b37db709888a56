/* Estimates of a block of sketches for some views, for _sketch.c. Included once per instruction set;
 * hence no include guard. Before including, define
 *   LANES     int32 lanes of a vector register (8 or 16)
 *   AT_ONCE   views that share an unpacked code
 *   NAME(x)   x with the instruction set's suffix
 *   REG       a register
 *   OP(x)     the intrinsic x
 *   SI(x)     the intrinsic x of a whole register
 *   FN, INLINE   as for _scan_kernels.h
 *   DOT(sums, u, q)  sums and the products of bytes of u, at most 3, and q, at most 127, somehow
 *                    added up; eight times into sums that were 0
 *   WIDE(sums)       those sums as one of 32 bits a lane
 *
 * A word holds 32 dimensions of one code, in four bytes. Step t of a word takes bit t of each byte:
 * four dimensions, whose values of the query lie side by side in view_t.q. Sums are of integers, so
 * the order in which they are taken does not matter.
 */

#define INTS NAME(ints)
#define FLOATS NAME(floats)
typedef int32_t INTS __attribute__((vector_size(LANES * 4), may_alias));
typedef float FLOATS __attribute__((vector_size(LANES * 4), may_alias));

INLINE void NAME(estimate)(const sketch_t *s, const view_t *v, const size_t nv, const int two,
                           const block_t *b, float *out)
{
    const INTS one = (INTS)OP(set1_epi8)(1), upper = (INTS)OP(set1_epi8)(2);
    for (size_t i = 0; i < b->count; i += LANES) {
        INTS sum[AT_ONCE];
        for (size_t j = 0; j < nv; j++)
            sum[j] = (INTS){0};
        for (size_t w = 0; w < s->words; w++) {
            const INTS low = (INTS)SI(loadu)((const void *)(b->words + w * BLOCK + i));
            INTS high = low, sums[AT_ONCE];
            for (size_t j = 0; j < nv; j++)
                sums[j] = (INTS){0};
            if (two)
                high = (INTS)SI(loadu)((const void *)(b->words + (s->words + w) * BLOCK + i));
#pragma GCC unroll 8
            for (int t = 0; t < 8; t++) {
                INTS u = low >> t & one;
                if (two)
                    u |= (t ? high >> (t ? t - 1 : 0) : high << 1) & upper;
                for (size_t j = 0; j < nv; j++)
                    sums[j] = (INTS)DOT((REG)sums[j], (REG)u,
                                        OP(set1_epi32)(v[j].q[w * 8 + (size_t)t]));
            }
            for (size_t j = 0; j < nv; j++)
                sum[j] += (INTS)WIDE((REG)sums[j]);
        }
        const FLOATS f = (FLOATS)OP(loadu_ps)(b->f + i), n = (FLOATS)OP(loadu_ps)(b->n + i);
        for (size_t j = 0; j < nv; j++) {
            const FLOATS dot = __builtin_convertvector(2 * sum[j] - v[j].offset, FLOATS);
            const FLOATS found = v[j].base + n * v[j].square - f * v[j].step * dot;
            OP(storeu_ps)(out + j * BLOCK + i, found);
        }
    }
}

FN void NAME(estimates)(const sketch_t *s, const view_t *v, size_t nv, const block_t *b, float *out)
{
    const int two = s->bits == 2;
    for (; nv >= AT_ONCE; nv -= AT_ONCE, v += AT_ONCE, out += AT_ONCE * BLOCK)
        two ? NAME(estimate)(s, v, AT_ONCE, 1, b, out) : NAME(estimate)(s, v, AT_ONCE, 0, b, out);
    for (; nv; nv--, v++, out += BLOCK)
        two ? NAME(estimate)(s, v, 1, 1, b, out) : NAME(estimate)(s, v, 1, 0, b, out);
}

#undef INTS
#undef FLOATS
#undef LANES
#undef AT_ONCE
#undef NAME
#undef OP
#undef SI
#undef FN
#undef INLINE
#undef DOT
#undef WIDE
#undef REG
