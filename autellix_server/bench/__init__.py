"""Comparing servers under real load: programs arrive by the clock, whatever the server manages; reports."""
