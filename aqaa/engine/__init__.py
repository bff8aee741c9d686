"""What computes a turn: the reference chain, and the engines that services hold."""
