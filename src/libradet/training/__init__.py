"""Training: recipe, Lightning module, what watches over a run."""
