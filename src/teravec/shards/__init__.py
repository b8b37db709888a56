"""Vertical slices: one range of rows, all lists, encoded and sorted by list."""
