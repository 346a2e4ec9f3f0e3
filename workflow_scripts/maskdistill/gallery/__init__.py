"""A static web gallery of one dataset: every image with every stage, to filter and to compare."""
