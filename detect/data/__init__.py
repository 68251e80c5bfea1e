"""Dataset cards to records, near copies, grouped splits, augmentation."""
