"""What a `cam.yaml` may say: read, checked, explained."""
