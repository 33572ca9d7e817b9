"""Pure values that every layer shares. No I/O, no logic beyond construction, parsing and printing."""
