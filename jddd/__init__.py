"""jddd: JAX Discrete Diffusion Distillation."""

__version__ = "0.1.0"
