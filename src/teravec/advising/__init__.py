"""Which codec, transform and nlist suit these vectors? Tried on a sample."""
