"""The synthetic smear: fields of view of which every cell is known, drawn from their optics up."""
