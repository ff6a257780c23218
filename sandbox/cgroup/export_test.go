package cgroup

// PokeNow is Poke without the background.
func PokeNow() error { return poke() }
