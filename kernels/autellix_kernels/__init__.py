"""KV between a device and host memory, in as few and as large transfers as the hardware likes.

`reference` says in plain indexing what a swap is; every other implementation has to leave the same bits.
"""
