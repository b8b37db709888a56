"""The HTTP port and its console."""
