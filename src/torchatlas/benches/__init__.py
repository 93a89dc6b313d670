"""Benchmarks of one model, or of many: how long they take on a device, and why."""
