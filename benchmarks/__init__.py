"""How fast libradet is, beside others with the same weights, on the same images, in the same run."""
