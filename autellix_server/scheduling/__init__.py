"""The scheduling core: program table, levels and policies. Pure: time is a parameter, nothing is read from outside.

The engine plugin, the gateway and (later) the simulator run these same objects.
"""
