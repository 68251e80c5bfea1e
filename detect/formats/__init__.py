"""Label files to records and back, with a tally of every problem on the way."""
