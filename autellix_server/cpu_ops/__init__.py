"""The operations that a CPU engine computes with, in C++, compiled on the machine that runs them."""
