"""The quality of synthetic features: distances to real features, and a test for copies."""
