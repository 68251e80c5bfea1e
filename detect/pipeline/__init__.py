"""A batch of fields to cells: detect, crop, route down the taxonomy, classify, abstain."""
