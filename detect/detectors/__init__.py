"""Detectors: one adapter per family behind one protocol, their training and export."""
