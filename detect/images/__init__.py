"""Pixels: the only decoder, and the fields of a folder."""
