"""All queries of a source answered, and written."""
