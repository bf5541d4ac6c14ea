"""What is damaged in a dataset is named, repaired, left out or refused, before anything is trained."""
