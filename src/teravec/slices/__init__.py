"""Horizontal slices: one range of lists, all rows, contiguous on disk."""
