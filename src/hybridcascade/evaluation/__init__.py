"""Room `evaluation`: see docs/architecture.md."""
