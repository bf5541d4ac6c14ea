"""Pure tensor functions on boxes: floor 1, depends on torch and torchvision only."""
