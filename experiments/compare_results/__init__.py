"""Compares networks by the result files of any tool: reads them, and scores and compares them like trainings."""
