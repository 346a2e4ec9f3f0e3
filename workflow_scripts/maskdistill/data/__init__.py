"""Datasets: their images and labels, downloads, archives."""
