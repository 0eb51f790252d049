"""Re-identification: whether an identity is found again among the pictures of others."""
