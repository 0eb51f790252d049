"""The JAX reference's parameters and configuration, and ours: google-research/vmoe, without JAX."""
