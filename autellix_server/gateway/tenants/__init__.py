"""Who calls: API keys and the tenants behind them, what each may ask for, and whose programs are whose."""
