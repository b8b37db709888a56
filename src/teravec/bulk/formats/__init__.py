"""Files of neighbours: each module writes and reads one kind."""
