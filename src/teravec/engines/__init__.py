"""Where do tasks run? In this process, or in worker processes that Ray places on a cluster."""
