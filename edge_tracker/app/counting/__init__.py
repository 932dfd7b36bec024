"""What happens to objects, in zones and at lines."""
