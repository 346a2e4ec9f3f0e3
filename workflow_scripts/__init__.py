"""Command-line programs, one per rule of the workflow, and the library that they use."""
