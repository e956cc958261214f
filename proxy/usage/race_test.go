//go:build race

package usage

const raceDetector = true
