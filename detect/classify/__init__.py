"""The second stage: crops of cells to types."""
