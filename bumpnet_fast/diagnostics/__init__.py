"""What is installed, whether it computes correctly, and how fast it is."""
