"""Triton kernels and the functions that launch them, torch tensors in and out; nothing here is
imported by `import spectralops`.
"""
