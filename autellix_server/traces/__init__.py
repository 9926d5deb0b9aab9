"""Traces: what agent programs ask of an engine, as structure and token counts, never text.

`model` is the format, `jsonl` its file form, `readers` translate other people's traces into it, `workloads` generates
programs like those of the paper, `scaling` and `arrivals` make a load of them, `prompts` turns counts back into text
for a real engine, and `recorder` writes down what a server saw. Deterministic: no clock, and randomness is passed in.
The format is described in docs/traces.md.
"""
