"""Files: atomic writes, weights in folders and on the hub, model cards, kept samples, figures as JSON."""
