"""How is a model made? Sample, transform, k-means and codec."""
