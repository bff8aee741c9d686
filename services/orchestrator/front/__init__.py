"""Turns as callers see them: let in, heard, told, taken up again."""
