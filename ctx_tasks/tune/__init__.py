"""Choosing a remedy on one half of the documents, and saying on the other what it is worth."""
