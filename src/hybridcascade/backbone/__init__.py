"""Room `backbone`: see docs/architecture.md."""
