"""The demo: the whole method on embedded scenes, where few are labelled and many masks have no image."""
