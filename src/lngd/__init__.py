"""Natural-gradient training for PyTorch."""
