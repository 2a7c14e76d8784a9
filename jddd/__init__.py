"""jddd: JAX Discrete Diffusion Distillation."""

__version__ = "0.1.0"


def load(workdir):
    """A finished run, ready to sample: see jddd.runs.load."""
    from jddd import runs  # late, so that `import jddd` stays instant

    return runs.load(workdir)
