"""Room `methods`: see docs/architecture.md."""
