"""The documentation as a site, and its code as something that runs."""
