"""The settings of each section of the config: one module per section, named as the section."""
