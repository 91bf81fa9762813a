"""What several API families share: lookup of what a request names, paging, message forms, answer types."""
