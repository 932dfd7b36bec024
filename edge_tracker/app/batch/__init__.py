"""`edge-tracker batch`: one configuration over many videos, on Ray's workers. Only `cluster` imports Ray."""
