"""The frozen nouns that flow through the house."""
