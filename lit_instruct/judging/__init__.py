"""How comparisons become rankings, how far rankings agree, and judges that are asked over HTTP."""
