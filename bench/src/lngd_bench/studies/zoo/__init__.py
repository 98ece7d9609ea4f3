"""Other people's architectures, tiny: which train, and how much of each has curvature."""
