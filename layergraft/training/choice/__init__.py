"""A recipe for a user's own images: what they are like, what the machine is, what is chosen, and how long it takes."""
