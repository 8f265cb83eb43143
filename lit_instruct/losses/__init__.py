"""The paper's losses as pure functions on tensors; nothing here knows a model."""
