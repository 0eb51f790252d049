"""What families share whose models are somebody's backbone with MLPs made into mixtures of experts."""
