"""The paper's tables and figures, and its numbers to compare with."""
