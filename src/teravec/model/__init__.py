"""The empty index: description, centroids, transform, codec."""
