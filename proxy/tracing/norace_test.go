//go:build !race

package tracing

const raceDetector = false
