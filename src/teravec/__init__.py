"""teravec: inverted-file vector indexes on disk, built and searched in a stated amount of memory."""
