"""The paper's Appendix A."""
