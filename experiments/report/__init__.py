"""Statistics, tables and the page that report a comparison."""
