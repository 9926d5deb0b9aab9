"""The paper's evaluation and ours, in simulation: what is run, run on all cores, and written up as one page."""
