"""Detectors as files that run without libradet: ONNX, and programs of torch.export."""
