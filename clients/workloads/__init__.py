"""Problem sets: what is asked, and what the right answer is."""
