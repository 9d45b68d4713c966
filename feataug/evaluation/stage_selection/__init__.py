"""Which layer to cut at."""
