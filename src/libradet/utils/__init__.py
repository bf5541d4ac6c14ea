"""Small helpers without a dependency on other parts of libradet."""
