"""How a model is run and looked into: segments, attention steering, `[IND]`, the harness model."""
