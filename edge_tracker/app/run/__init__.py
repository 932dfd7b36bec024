"""A run: its cameras with their threads, shared models, and saved state."""
