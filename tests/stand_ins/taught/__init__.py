"""A method for tests: mean-pool CLIP that stays close to a teacher, which follows it."""
