"""What the report measures: labelers, measures, the comparison of the stages, and the report itself."""
