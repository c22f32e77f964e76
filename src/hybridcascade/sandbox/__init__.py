"""Room `sandbox`: see docs/architecture.md."""
