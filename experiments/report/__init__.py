"""Reports a comparison: statistics, tables and an HTML page."""
