"""Search servers, their coordinator, and the client that asks them."""
