"""Datasets in the formats of other tools; the module `content` says what they hold."""
