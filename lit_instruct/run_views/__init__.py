"""What the files of runs show: `watch` one while it trains, `compare` several. `watch` needs no torch, since it runs beside trainings."""
