"""The HTTP front: proxy, program table and programs API, and the life of the engine behind them."""
