"""Indexes as released versions wrote them, which every later version opens, checks and searches."""
