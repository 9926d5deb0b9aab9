"""Readers of other people's traces, one module each; all of them yield `autellix_server.traces.model.TraceProgram`."""
