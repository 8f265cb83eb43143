"""One module for each finding, with `measure(context) -> Result`."""
