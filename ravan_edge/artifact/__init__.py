"""The artifact: its manifest, opening and checking it, bounded tensor files (docs/artifact.md)."""
