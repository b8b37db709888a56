"""One process that answers requests from the lists that it owns."""
