"""Who reaches whom, for people: the rows (`rows`), and how they are shown (`show` for terminals and programs, `graph` for dot, `picture` for svg)."""
