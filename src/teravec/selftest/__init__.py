"""Does this installation work? One small build by every available route, compared."""
