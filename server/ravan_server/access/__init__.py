"""Who may ask for what: devices by their signatures, operators by their token, and how either gets in."""
