/* Kernels of _linear.c, included once per instruction set; hence no include guard. Columns are
 * independent of each other, so a compiler may work on several at a time.
 */

/* Apply the reflections I - v v' of vectors [first, last), of squared length 2, to a strip (d, STRIP).
 * Vector k is zero before row k + shift. */
FN void NAME(reflect)(const double *vectors, size_t d, size_t first, size_t last, size_t shift,
                      int backward, double *strip)
{
    for (size_t at = first; at < last; at++) {
        const size_t k = backward ? last - 1 - (at - first) : at;
        const double *v = vectors + k * d;
        double along[STRIP] = {0};
        for (size_t i = k + shift; i < d; i++)
            for (size_t j = 0; j < STRIP; j++)
                along[j] += v[i] * strip[i * STRIP + j];
        for (size_t i = k + shift; i < d; i++)
            for (size_t j = 0; j < STRIP; j++)
                strip[i * STRIP + j] -= v[i] * along[j];
    }
}

/* Subtract v w' + w v' from rows and columns [start, d) of a symmetric matrix. */
FN void NAME(deflate)(double *restrict matrix, size_t d, size_t start, const double *restrict v,
                      const double *restrict w)
{
    for (size_t i = start; i < d; i++) {
        double *row = matrix + i * d;
        const double vi = v[i], wi = w[i];
        for (size_t j = start; j < d; j++)
            row[j] -= vi * w[j] + wi * v[j];
    }
}

/* The product of rows and columns [start, d) of a symmetric matrix with v. */
FN void NAME(product)(const double *restrict matrix, size_t d, size_t start,
                      const double *restrict v, double *restrict out)
{
    for (size_t j = start; j < d; j++)
        out[j] = 0;
    for (size_t i = start; i < d; i++) {
        const double *row = matrix + i * d;
        for (size_t j = start; j < d; j++)
            out[j] += v[i] * row[j];
    }
}

/* Apply rotations of neighbouring rows to some columns. */
FN void NAME(turn)(const rotation_t *rotations, size_t count, double *rows, size_t stride, size_t width)
{
    for (size_t r = 0; r < count; r++) {
        const double c = rotations[r].c, s = rotations[r].s;
        double *restrict a = rows + rotations[r].row * stride, *restrict b = a + stride;
        for (size_t j = 0; j < width; j++) {
            const double x = a[j], y = b[j];
            b[j] = s * x + c * y;
            a[j] = c * x - s * y;
        }
    }
}

#undef VL
#undef NAME
#undef FN
#undef INLINE
