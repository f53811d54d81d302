"""The image encoder: SAM's ViT, the adapters of the paper and its local branch."""
