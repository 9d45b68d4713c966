"""Does feataug help a model? The comparison on paired seeds, and what must hold before it may be believed."""
