"""Pictures and boxes: recognised, checked, decoded, batched, drawn. Knows no model."""
