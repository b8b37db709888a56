"""Answering from many servers as one machine would."""
