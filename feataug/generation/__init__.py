"""The generator of features, and its critics."""
