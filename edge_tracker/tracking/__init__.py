"""The algorithm: arrays in, arrays out. Needs NumPy and Numba only."""
