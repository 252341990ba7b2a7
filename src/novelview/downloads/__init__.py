"""Files that other people publish: where they are, under which licence, and how to fetch them whole."""
