"""What the artist sees: schemas, tooltips and input checks. One module per category of the menu."""
