"""The version of edge-tracker."""

__version__ = "0.1.0"
