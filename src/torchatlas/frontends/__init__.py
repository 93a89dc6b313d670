"""Front ends turn a model and an example into records; `record` chooses among them."""
