"""Who holds a key and under which rules: roles, permissions, policy constants."""
