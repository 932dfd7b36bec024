"""Where results go, and who is told of them."""
