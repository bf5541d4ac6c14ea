"""What is damaged in a data set is named, repaired, left out or refused, before anything is trained."""
