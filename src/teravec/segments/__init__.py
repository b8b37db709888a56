"""Which rows are in these files? Shards and slices: encoding rows, merging lists."""
