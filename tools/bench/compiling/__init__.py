"""What compile-speed is made of."""
