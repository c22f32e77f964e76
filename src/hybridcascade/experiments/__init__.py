"""Comparing methods honestly: arenas, rows, a store that survives a kill, tables; ablation."""
