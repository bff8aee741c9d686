"""What commands do that need more than a few lines; the commands themselves are in ``aqaa.cli``."""
