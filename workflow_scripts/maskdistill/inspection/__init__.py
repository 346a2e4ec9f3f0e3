"""Describes files of the workflow as text: what they are, how they were made, what they contain."""
