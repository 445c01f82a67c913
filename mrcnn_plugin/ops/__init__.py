"""Custom ops: wrappers, fake kernels, autograd. Imports no Detectron2."""
