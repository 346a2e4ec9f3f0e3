"""The demo: generated scenes, and networks that are trained on them."""
