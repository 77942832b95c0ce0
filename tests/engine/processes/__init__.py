"""Programs that the tests start in several processes."""
