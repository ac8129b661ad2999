"""Squared-gradient sensitivities of weights, and how well a mask covers a task's."""
