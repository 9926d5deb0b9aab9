"""The server side of Autellix: gateway, engine plugin, scheduling core and the `autellix` command."""
