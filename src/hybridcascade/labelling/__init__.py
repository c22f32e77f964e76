"""Room `labelling`: see docs/architecture.md."""
