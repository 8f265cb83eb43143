"""Pages that a command serves on this machine: the address with its token, and what stands before every route."""
