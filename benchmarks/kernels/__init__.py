"""What was tried for speed, as pairs of functions: `python -m benchmarks.kernels`."""
