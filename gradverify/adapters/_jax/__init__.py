"""JAX code behind NumPy arrays, and what a good kernel in JAX may lose against its reference."""
