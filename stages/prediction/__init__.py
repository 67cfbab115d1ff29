"""What a saved model answers about new images, how sure it is, and a page to ask it on."""
