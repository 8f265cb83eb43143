"""`lit-instruct export`: a stage's model as a folder that others can load, publish and serve."""
