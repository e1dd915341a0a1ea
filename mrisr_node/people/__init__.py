"""Who may use the node, what they may do, and what they did."""
