"""One event loop for all connections of a port: HTTP/1.1, and whatever else a port speaks."""
