"""What is near? Top-k and range search from disk."""
