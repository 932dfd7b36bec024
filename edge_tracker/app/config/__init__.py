"""The configuration, `cam.yaml`: its schema, reading it, and checking it."""
