"""The CUDA sources of csrc, unchanged, executed on the host; README.md says how."""
