"""What the files of runs show: `watch` one while it trains, `compare` several. Nothing here imports torch."""
