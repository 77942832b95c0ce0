"""Costs of networks: parameters, multiply-adds, time and memory."""
