"""What is measured, and what the results say. Nothing here imports torch."""
