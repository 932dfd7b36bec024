"""A run: cameras, their threads, what they share, and what outlives them."""
