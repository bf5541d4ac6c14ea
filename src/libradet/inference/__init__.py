"""Looking at images: from files, arrays and videos to detections in their own pixels. Knows no model."""
