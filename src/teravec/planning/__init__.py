"""What a build and a query will take, before any is run: a model and its constants."""
