"""The paper's comparison on the bundled models."""
