"""Files, folders and hub datasets as raw records."""
