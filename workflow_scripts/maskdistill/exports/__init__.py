"""Export of datasets in the formats of other tools; their content is in the module `content`."""
