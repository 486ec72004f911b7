"""What is printed on a terminal: doctor, query, top."""
