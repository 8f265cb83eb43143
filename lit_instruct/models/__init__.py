"""Loading models, adapters and heads, and the roles they play."""
