"""Starting servers and coordinators: here, or on a cluster."""
