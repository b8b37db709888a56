"""What do other libraries read and write? Their file formats."""
