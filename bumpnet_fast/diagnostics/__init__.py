"""What is installed here, whether it computes correctly, and how fast it is."""
