"""Re-identification sets: folders in the published forms, one file for each."""
