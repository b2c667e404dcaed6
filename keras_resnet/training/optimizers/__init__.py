"""Optimizers, their parameter groups, schedules and averages of weights."""
