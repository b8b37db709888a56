"""What is an empty index? Description, centroids, transform and codec."""
