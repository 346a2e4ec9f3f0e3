"""Exports of a run's results in the formats of other tools; `content` says what they contain."""
