"""What is measured or planned: sizes, routing, and tables of results."""
