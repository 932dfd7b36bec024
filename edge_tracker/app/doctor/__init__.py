"""What `edge-tracker doctor` looks at: the machine, its models, and what a configuration needs."""
