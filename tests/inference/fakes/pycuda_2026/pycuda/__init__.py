"""The part of pycuda that edge-tracker uses, over the fake CUDA driver: a real pycuda has to be compiled.

Names, arguments and behaviour are those of pycuda 2026.1, with which the same tests were run.
"""
