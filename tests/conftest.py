"""Every test sees eight virtual CPU devices, set up before jax is imported."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A rendezvous of eight devices needs more than eight threads: with XLA's default pool (one per core) older
# JAX versions deadlock on a machine with few cores.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
