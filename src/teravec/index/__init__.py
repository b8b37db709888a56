"""What do the files say together? A manifest and its slices as one readable index."""
