"""Benchmarks: teravec beside the programs that it replaces. No speed claim without one."""
