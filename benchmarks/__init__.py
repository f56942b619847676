"""Benchmarks of speed, which measure ratios between contenders that run side by side."""
