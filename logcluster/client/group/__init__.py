"""The client's side of consumer groups: finding coordinators, being a member, reading what is assigned, committing."""
