"""Torch code behind NumPy arrays, and what a good kernel in torch may lose against its reference."""
