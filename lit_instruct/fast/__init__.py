"""Code that exists for speed alone; each part equals a slow twin."""
