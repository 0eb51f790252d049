"""Checkpoints of JAX programs, read and written without JAX: flax msgpack, npz, and google-research/vmoe's shards."""

from moezoo.hub.jax_files.read import JaxCheckpoint, read_jax
from moezoo.hub.jax_files.write import write_jax

__all__ = ["JaxCheckpoint", "read_jax", "write_jax"]
