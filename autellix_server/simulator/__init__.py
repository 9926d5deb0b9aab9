"""The simulator: programs on model engines in virtual time. Pure: the same inputs give the same result, bit by bit.

The engine is a model; the program table, policies, planner and balancers are the very objects that the server runs.
What the model leaves out: networks, tokenizing, sharing between programs, and what a policy's decisions cost.
"""
