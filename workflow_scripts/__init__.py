"""Command-line programs, one a rule of the workflow, and the library behind them."""
