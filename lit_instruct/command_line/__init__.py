"""The command line before anything heavy is imported: help, mistakes in options and paths, errors in a sentence."""
