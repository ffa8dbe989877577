"""jaxgen: functional neural image generation in JAX. Functions in, function out."""

__version__ = "0.1.0"
