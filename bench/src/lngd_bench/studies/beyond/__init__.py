"""Eighteen small tasks beyond the classification of images and text: `python -m lngd_bench.studies.beyond`."""
