"""Distances, codecs, quantizers and scanners: the one place that knows Faiss."""
