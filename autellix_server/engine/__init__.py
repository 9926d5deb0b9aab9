"""The engine as seen from outside: its environment, its model and its process. Imports neither SGLang nor torch."""
