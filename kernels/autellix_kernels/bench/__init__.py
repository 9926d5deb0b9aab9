"""What a swap costs, beside what it was before and what the engine does: `python -m autellix_kernels.bench`."""
