"""From image files to batches: decoded, resized, flipped, padded, in an order that depends on nothing hidden."""
