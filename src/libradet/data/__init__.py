"""Images and boxes: recognized, checked, decoded, batched, drawn. Knows no model."""
