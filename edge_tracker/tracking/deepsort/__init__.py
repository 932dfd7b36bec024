"""Exact DeepSORT, as deep-sort-realtime runs it."""
