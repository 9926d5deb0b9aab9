"""What a gateway adds to a call and carries of streams: ours beside others, and beside none, on one machine."""
