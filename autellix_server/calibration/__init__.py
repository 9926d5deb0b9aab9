"""Measuring a running engine and fitting the engine model of the simulator to it."""
