"""Where work runs: threads of this process (and, later, other engines behind the same calls)."""
