"""Building blocks of the generator and its critics."""
