/* A candidate of a scan of sketches, for _sketch.c and _refine.c; the layout of sketch.CANDIDATE. */
typedef struct {
    float estimate, error; /* lower estimates are closer; the bound of an estimate's error */
    int64_t place;
} candidate_t;
