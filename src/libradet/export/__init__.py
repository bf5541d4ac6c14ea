"""Export of detectors to files that run without libradet: ONNX and torch.export (.pt2)."""
