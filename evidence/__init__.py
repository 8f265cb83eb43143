"""The paper's findings, measured at small scale: `make evidence`."""
