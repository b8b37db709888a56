"""Top-k and range search from disk, and how good they are."""
