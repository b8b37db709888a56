"""How does an index change? Adding, replacing and deleting rows; versions."""
