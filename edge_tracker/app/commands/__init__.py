"""What `edge-tracker` does, one file a command."""
