"""The scheduling core: program table, levels, policies, planner. Pure: time is a parameter, nothing is read outside.

The engine plugin, the gateway and the simulator run these same objects.
"""
