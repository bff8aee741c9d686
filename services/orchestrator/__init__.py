"""Conversations over the other services and the turn log: fronts face callers, runners face the backbone."""
