"""The page: upload a field, see the cells, the attributes, the differential. The same pipeline as `smear score`."""
