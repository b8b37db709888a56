"""What will a build and a query cost? Predictions from a model and measured constants."""
