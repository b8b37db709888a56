"""How do rows of a database become vectors? Read in ranges of a key, spilled to sealed files."""
