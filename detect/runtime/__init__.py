"""Runs a bundle's graph: one file per engine, one table."""
