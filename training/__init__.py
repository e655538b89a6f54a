"""From raw conversations to a tuned model that keeps its context awareness."""
