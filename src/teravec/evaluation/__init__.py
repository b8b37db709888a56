"""The quality of an index: exact neighbours, recall against effort, calibration."""
