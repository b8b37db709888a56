"""Searches many servers and answers as one machine would."""
