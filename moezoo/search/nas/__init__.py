"""Neural architecture search: designs are chosen by what was learnt from those before (Optuna)."""
