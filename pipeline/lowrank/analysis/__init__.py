"""What is known of every target before a method, a policy or a budget is chosen."""
