"""Review in FiftyOne: what the models got wrong, labels that get better, and every edit back with a trail.

`smear review open` takes a snapshot of a set, and gives each annotator a dataset of their own made from it. `pull`
compares that dataset with the snapshot and writes what was edited, and nothing else, into COCO and YOLO again.
"""
