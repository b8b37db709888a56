"""What other libraries read and write."""
