"""The engines behind one gateway: which there are, how they are, and what is in them."""
