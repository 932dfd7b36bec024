"""`edge-tracker batch`: one configuration over many videos, on Ray's workers. Ray is imported by `cluster` alone."""
