"""The networks that embedders come from, written in torch, with the names their published weights use."""
