"""The live page and the endpoints beside it."""
