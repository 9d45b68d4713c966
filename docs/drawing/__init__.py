"""Draw pages and plots of the documentation from committed JSON."""
