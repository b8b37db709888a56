"""From vectors to an empty trained index: sample, transform, centroids, codec."""
