"""What survives a restart of the gateway: the program table with its pins, and what was learned."""
