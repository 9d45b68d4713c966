"""How far synthetic features are from real ones, and whether they are copies."""
