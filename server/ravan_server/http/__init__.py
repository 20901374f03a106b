"""HTTP: connections and what they may cost, TLS, messages and files and problems as answers."""
