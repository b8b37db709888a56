"""Where do bytes lie, and when are they true? Stores, sealed formats, checksums, locks."""
