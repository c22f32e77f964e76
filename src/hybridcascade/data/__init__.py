"""Room `data`: see docs/architecture.md."""
