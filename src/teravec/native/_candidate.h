/* A vector that a scan of sketches left; for _sketch.c and _refine.c. As sketch.CANDIDATE. */
typedef struct {
    float estimate, error; /* lower estimates are closer; the bound of an estimate's error */
    int64_t place;
} candidate_t;
