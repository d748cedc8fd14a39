"""Measure every operation against eager PyTorch, torch.compile and the machine's limit: `python -m spectralops profile [OP ...]`."""
