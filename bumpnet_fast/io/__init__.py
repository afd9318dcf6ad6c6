"""What is kept in files: saved results, states of runs, recordings, and exports."""
