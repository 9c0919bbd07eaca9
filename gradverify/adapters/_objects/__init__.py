"""Objects with forward and backward, each as a Layer: how they are built, copied, called and asked for gradients."""
