"""What was tried for speed, as pairs of functions: `python -m lngd_bench.studies.kernels`."""
