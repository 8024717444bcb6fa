"""RegDB: 412 people, each ten times in a visible and a thermal camera."""
