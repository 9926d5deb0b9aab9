"""The HTTP front: proxy, program table and programs API, and the life of the engine behind them."""

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8700
