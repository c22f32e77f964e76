"""Readers of data sets as they are published, one file a layout. Importing them needs no torch."""
