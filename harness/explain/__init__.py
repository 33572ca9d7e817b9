"""Why policy decides as it does: who selects, what decided, what almost matched, what would allow it. Pure; reads no files."""
