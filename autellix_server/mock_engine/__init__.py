"""An engine model behind an OpenAI-compatible server in real time, with faults on demand."""

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8701
