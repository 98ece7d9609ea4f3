"""The networks that the tasks train: one of each common kind, written out in full."""
