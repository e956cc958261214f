package keyset

// Poke has Run look at the clock again.
func (s *Store) Poke() { s.poke() }
