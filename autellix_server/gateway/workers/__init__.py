"""Several processes that move bytes, and one that decides: the proxy's half of `desk` in each worker, the other here.

A worker and the gateway share one pair of sockets. What is said on it is one JSON object a line, see `messages`.
"""
