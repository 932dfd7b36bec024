"""Outputs: files, MQTT, metrics and the live page."""
