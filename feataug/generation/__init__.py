"""The feature generator and its critics."""
