"""How far a response depends on what the user wrote (eq. 2)."""
