"""What turns each kind of stored result into the table of a document."""
