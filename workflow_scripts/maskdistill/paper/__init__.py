"""The paper's tables and figures, with the paper's numbers for comparison."""
