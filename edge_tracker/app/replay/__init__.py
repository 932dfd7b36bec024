"""Runs recorded, replayed and explained."""
