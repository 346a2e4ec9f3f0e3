"""Settings of every stage: defaults, merging, names of clusters, downloads."""
