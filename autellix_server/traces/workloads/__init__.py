"""Generators of programs like those of the paper, one module a kind; `registry` knows them by name."""
