"""How rows and blocks of text become batches: order, loaders, the pretraining mix."""
