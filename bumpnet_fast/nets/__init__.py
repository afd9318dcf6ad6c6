"""BumpNet and BumpDeepONet, removing and adding bumps, and compiled training steps."""
