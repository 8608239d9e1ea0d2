"""What answers: the embedded server and its client."""
