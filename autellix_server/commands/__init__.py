"""The commands of `autellix`, one module each.

A command module has `register(subparsers)`: it adds its parser and sets the default `run`, a callable that
takes the parsed arguments and returns the exit status. What follows a bare `--` on the command line arrives
as `args.passthrough`, a list of strings, if the command sets the default `takes_passthrough=True`.

Modules import what they need inside `run`, so that help stays fast and works with the base install.
"""
