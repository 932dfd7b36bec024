"""The examination by `edge-tracker doctor`: the machine, its models, and the needs of a configuration."""
