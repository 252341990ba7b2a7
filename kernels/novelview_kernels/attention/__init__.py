"""What the attention operators share: kernels, launchers and configurations."""
