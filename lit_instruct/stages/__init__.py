"""The paper's three steps as LightningModules."""
