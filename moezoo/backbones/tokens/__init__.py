"""Token routing: a pretrained transformer whose MLPs meet only the tokens that are worth them."""
