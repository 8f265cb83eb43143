"""Responses sampled by vLLM servers, which get the policy's adapter at each iteration and are checked by ours."""
