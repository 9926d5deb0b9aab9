"""Autellix client: two lines that make an agent's calls one program."""
