"""A static web page of one dataset that shows the results of all stages for every image."""
