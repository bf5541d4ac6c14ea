"""How fast libradet is, beside others with the same weights, on the same pictures, in the same run."""
