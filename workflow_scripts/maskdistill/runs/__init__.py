"""A run of the workflow: frozen when it starts, planned before it, verified after it."""
