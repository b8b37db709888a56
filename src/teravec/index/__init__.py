"""A manifest and its slices as one readable index."""
