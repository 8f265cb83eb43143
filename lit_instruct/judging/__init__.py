"""How comparisons become rankings, and how far rankings agree."""
