"""The Flight port: a bounded gRPC server of our own."""
