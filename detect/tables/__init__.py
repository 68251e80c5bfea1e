"""The comparisons of the literature under one protocol: detectors, classifiers, and what another lab costs."""
