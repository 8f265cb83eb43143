"""What the files of runs show: `watch` one while it trains, without torch, as it runs beside it; `compare` several."""
