"""What a change of policies changes: the flows that are decided otherwise, in the fewest readable lines. Pure."""
