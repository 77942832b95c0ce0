"""Runtimes other than PyTorch: they read an exported file and compute what the network computes."""
