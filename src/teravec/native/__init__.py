"""What is compiled, and what loads it: the only room that knows."""
