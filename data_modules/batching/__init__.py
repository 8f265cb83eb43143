"""How rows and text become batches: their order, the loaders, the pretraining blocks."""
