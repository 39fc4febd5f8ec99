"""What guidance does, for those who look on."""
