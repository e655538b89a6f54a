"""Did a checkpoint lose context awareness? pass, regression, inconclusive, error."""
