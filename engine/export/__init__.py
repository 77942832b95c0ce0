"""Export a trained network to a file for another runtime, and check the file against the checkpoint."""
