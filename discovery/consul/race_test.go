//go:build race

package consul

// raceEnabled says that the race detector slows everything down.
const raceEnabled = true
