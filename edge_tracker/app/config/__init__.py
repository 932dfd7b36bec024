"""The configuration, `cam.yaml`: reading it, checking it, explaining its keys."""
