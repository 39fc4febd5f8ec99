"""What the artist sees: schemas, tooltips and input checks. One module per shelf of the menu."""
