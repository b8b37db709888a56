"""Messages, exchanges, security and the client: what both ends of a connection share."""
