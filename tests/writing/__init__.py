"""Tests of changes to a finished index."""
