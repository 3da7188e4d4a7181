"""Sparse layers: the operator of a router with its experts, what it becomes on each target, and how it is read."""
