package tail

import "testing"

func BenchmarkTellNobody(b *testing.B) {
	tap, x := new(Tap), ended("/", 200)
	for b.Loop() {
		tap.Tell(x, 0)
	}
}

func BenchmarkTellTooFast(b *testing.B) {
	tap, x := new(Tap), ended("/", 200)
	l, err := tap.Listen(Filter{Class: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for b.Loop() {
		tap.Tell(x, 0)
	}
}
