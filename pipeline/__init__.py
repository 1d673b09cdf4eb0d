"""One thin script a stage; a stage, its script and its section of params.yaml share one name."""
