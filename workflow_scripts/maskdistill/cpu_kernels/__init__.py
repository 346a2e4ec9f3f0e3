"""Faster layers on the CPU by oneDNN, behind one interface."""
