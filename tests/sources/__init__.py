"""Tests of `teravec.sources`."""
