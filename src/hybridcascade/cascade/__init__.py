"""Room `cascade`: see docs/architecture.md."""
