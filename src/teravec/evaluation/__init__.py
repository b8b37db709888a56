"""How good is it? Exact neighbours, recall against effort, calibration."""
