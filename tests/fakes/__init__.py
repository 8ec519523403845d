"""Stand-ins for the parts that are slow or large: scripted, and true to the real ones' protocols."""
