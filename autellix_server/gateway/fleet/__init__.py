"""The engines behind the gateway: what they are, how they are, and the calls held for those without a planner."""
