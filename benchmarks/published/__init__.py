"""What papers say of their models' sizes, family by family; ``published_sizes.py`` measures ours beside them."""
