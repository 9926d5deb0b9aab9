"""Swap kernels in CUDA C++: the sources, how they are compiled, and the kernels made of them."""
