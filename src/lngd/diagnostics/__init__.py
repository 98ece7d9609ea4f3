"""Numerical checks of the paper's claims: what its theorems say of small problems, and where they stop being true."""
