"""A run of the workflow: its config, forecasts, stale jobs, and checks of its results."""
