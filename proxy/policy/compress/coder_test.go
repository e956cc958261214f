package compress

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// decode reads an encoded stream with the library's decoder, for gzip Go's own.
func decode(t testing.TB, c coding, b []byte) []byte {
	t.Helper()
	got, err := io.ReadAll(decoder(t, c, bytes.NewReader(b)))
	if err != nil {
		t.Fatalf("%s: %v behind %d bytes", names[c], err, len(got))
	}
	return got
}

func decoder(t testing.TB, c coding, r io.Reader) io.Reader {
	t.Helper()
	switch c {
	case zstdCoding:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20)) // RFC 9659
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		return d
	case brotliCoding:
		return brotli.NewReader(r)
	default:
		d, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
}

func newTestCoder(t testing.TB, c coding) coder {
	t.Helper()
	enc, err := newCoder(c)
	if err != nil {
		t.Fatal(err)
	}
	enc.reset()
	return enc
}

// samples are texts, noise and runs of all lengths at which something changes.
func samples() [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	word := func(n int) []byte {
		var b []byte
		for len(b) < n {
			b = append(b, []string{"order", " ", "\"sku\":", "customer", ",", "\n", "12345", "é"}[r.IntN(8)]...)
		}
		return b[:n]
	}
	list := [][]byte{nil, {0}, []byte("x"), bytes.Repeat([]byte("a"), 300_000)}
	for _, n := range []int{2, 15, 16, 17, 1000, 65535, 65536, 65537, 131072, 300_000} {
		list = append(list, word(n))
	}
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	return append(list, noise)
}

// TestCoders: whatever goes in, in whatever pieces, with flushes or without,
// comes out of somebody else's decoder, and an encoder that has been used makes the
// same stream as a new one.
func TestCoders(t *testing.T) {
	for c := range codings {
		used := newTestCoder(t, c)
		for _, in := range samples() {
			for _, cut := range []int{1 << 30, 16 << 10, 999} {
				for _, every := range []int{0, 1, 3} { // flushes
					if every == 1 && cut < 1000 && len(in) > 100_000 {
						continue // no more than slow
					}
					enc := func(w coder) []byte {
						var out []byte
						var err error
						for i, p := 0, in; len(p) > 0 && err == nil; i++ {
							n := min(cut, len(p))
							out, err = w.write(out, p[:n])
							if p = p[n:]; err == nil && every > 0 && i%every == 0 {
								out, err = w.flush(out)
							}
						}
						if err == nil {
							out, err = w.finish(out)
						}
						if err != nil {
							t.Fatal(err)
						}
						return out
					}
					fresh := enc(newTestCoder(t, c))
					used.reset()
					if again := enc(used); !bytes.Equal(fresh, again) {
						t.Errorf("%s: an encoder that has been used makes something else of %d bytes", names[c], len(in))
					}
					if got := decode(t, c, fresh); !bytes.Equal(got, in) {
						t.Errorf("%s: %d bytes in pieces of %d, flushed every %d: %d came out", names[c], len(in), cut, every, len(got))
					}
				}
			}
		}
	}
}

// TestFlush: what has been flushed can be read before more comes.
func TestFlush(t *testing.T) {
	for c := range codings {
		w := newTestCoder(t, c)
		r, pipe := io.Pipe()
		sent := make(chan []byte)
		go func() {
			for b := range sent {
				_, _ = pipe.Write(b)
			}
			_ = pipe.Close()
		}()
		var d io.Reader
		for i := range 50 {
			event := []byte(strings.Repeat("data: event\n\n", 1+i*7))
			out, err := w.write(nil, event)
			if err == nil {
				out, err = w.flush(out)
			}
			if err != nil {
				t.Fatal(err)
			}
			sent <- out
			if d == nil {
				d = decoder(t, c, r)
			}
			got := make([]byte, len(event))
			if _, err := io.ReadFull(d, got); err != nil || !bytes.Equal(got, event) {
				t.Fatalf("%s: event %d: %q, %v", names[c], i, got, err)
			}
		}
		out, err := w.finish(nil)
		if err != nil {
			t.Fatal(err)
		}
		sent <- out
		close(sent)
		if b, err := io.ReadAll(d); len(b) != 0 || err != nil {
			t.Errorf("%s: the end is %q, %v", names[c], b, err)
		}
	}
}

// TestShortEvents: events that are flushed one by one don't become much longer.
func TestShortEvents(t *testing.T) {
	for c := range codings {
		w := newTestCoder(t, c)
		in, out := 0, 0
		for i := range 100 {
			event := fmt.Appendf(nil, "data: %d\n\n", i)
			b, err := w.write(nil, event)
			if err == nil {
				b, err = w.flush(b)
			}
			if err != nil {
				t.Fatal(err)
			}
			in, out = in+len(event), out+len(b)
		}
		if out > in*5/2 {
			t.Errorf("%s: %d bytes became %d", names[c], in, out)
		}
		t.Logf("%s: %d bytes became %d", names[c], in, out)
	}
}

// TestMemory: an encoder and its buffers are within what is counted for them.
func TestMemory(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector needs memory of its own")
	}
	big := bytes.Repeat(samples()[13], 8)
	for c := range codings {
		const n = 8
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var all [n]coder
		var bodies [n]body
		for i := range all {
			all[i] = newTestCoder(t, c)
			for p := big; len(p) > 0; p = p[min(piece, len(p)):] {
				var err error
				if bodies[i].out, err = all[i].write(bodies[i].out[:0], p[:min(piece, len(p))]); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			if bodies[i].out, err = all[i].finish(bodies[i].out[:0]); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		each := int64(after.HeapAlloc-before.HeapAlloc) / n
		runtime.KeepAlive(&all)
		runtime.KeepAlive(&bodies)
		if each > memory[c] || each < memory[c]/4 {
			t.Errorf("%s: %d bytes, %d are counted", names[c], each, memory[c])
		}
		t.Logf("%s: %d KiB", names[c], each>>10)
	}
}

func FuzzCoders(f *testing.F) {
	f.Add([]byte("data: hello\n\n"), uint16(3), uint8(1))
	f.Add(bytes.Repeat([]byte("abcdefgh"), 10_000), uint16(4000), uint8(2))
	f.Add([]byte{}, uint16(0), uint8(0))
	var used [codings]coder // to make new ones is slow
	for c := range codings {
		used[c] = newTestCoder(f, c)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16, every uint8) {
		for c, w := range used {
			w.reset()
			var out []byte
			var err error
			for i, p := 0, in; len(p) > 0 && err == nil; i++ {
				n := min(int(cut)+1, len(p))
				out, err = w.write(out, p[:n])
				if p = p[n:]; err == nil && every > 0 && i%int(every) == 0 {
					out, err = w.flush(out)
				}
			}
			if err == nil {
				out, err = w.finish(out)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := decode(t, coding(c), out); !bytes.Equal(got, in) {
				t.Errorf("%s: %q became %q", names[c], in, got)
			}
		}
	})
}

// parts is a body of which some is in memory whenever it is asked for, and some
// has to be waited for: a script of lengths, odd ones in memory.
type parts struct {
	in     []byte
	script []byte
	asked  int
}

func (p *parts) next() int {
	n := 1
	if len(p.script) > 0 {
		n = int(p.script[p.asked%len(p.script)]) * 97
	}
	p.asked++
	return min(n, len(p.in))
}

func (p *parts) Read(b []byte) (int, error) {
	n := copy(b, p.in[:min(max(p.next(), 1+len(p.in)/200), len(p.in))]) // not byte by byte: that takes long
	if p.in = p.in[n:]; len(p.in) == 0 {
		return n, io.EOF
	}
	return n, nil
}

func (p *parts) Next() ([]byte, bool) {
	n := p.next()
	if n%2 == 0 {
		return nil, len(p.in) == 0
	}
	b := p.in[:n]
	p.in = p.in[n:]
	return b, len(p.in) == 0
}

func (p *parts) Close() error { return nil }

// FuzzBody: however a body comes, and however it is read, it arrives.
func FuzzBody(f *testing.F) {
	f.Add([]byte("abc"), []byte{3, 0, 200}, uint16(10), true)
	f.Add(bytes.Repeat([]byte("abcdefgh"), 20_000), []byte{255, 254, 0, 1}, uint16(4000), false)
	var policies [codings]*Policy
	for c := range codings {
		policies[c] = newPolicy(f, fmt.Sprintf("compress {\n encodings = [%q]\n min_length = \"0B\"\n}", names[c]))
	}
	f.Fuzz(func(t *testing.T, in, script []byte, size uint16, known bool) {
		for c, p := range policies {
			x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: *")
			policytest.Answer(x, 200, "", "Content-Type: text/plain")
			x.ResponseBody, x.ResponseLength = &parts{in: in, script: script}, -1
			if known {
				x.ResponseLength = int64(len(in))
			}
			p.Encode(x)
			var out []byte
			done := false
			for i, buf := 0, make([]byte, int(size)+1); !done; i++ {
				if i%3 != 1 {
					var b []byte
					b, done = x.ResponseBody.Next()
					out = append(out, b...)
					continue
				}
				n, err := x.ResponseBody.Read(buf)
				out = append(out, buf[:n]...)
				if done = err == io.EOF; err != nil && !done {
					t.Fatal(err)
				}
			}
			if value(&x.Response, &x.ResponseEdits, exchange.ContentEncoding) != "" {
				out = decode(t, coding(c), out)
			} else if len(in) > 0 {
				t.Errorf("%s: %d bytes came as they are", names[c], len(in))
			}
			if !bytes.Equal(out, in) {
				t.Errorf("%s: %d bytes of %d came", names[c], len(out), len(in))
			}
			p.Finish(x)
			if p.store.Used() != 0 {
				t.Error("memory stays taken")
			}
		}
	})
}

// TestCloseWhileReading: a front may give a body up from elsewhere (exchange.Body).
func TestCloseWhileReading(t *testing.T) {
	for c := range codings {
		p := newPolicy(t, fmt.Sprintf("compress { encodings = [%q] }", names[c]))
		for range 20 {
			x := policytest.Exchange(t, "GET https://a.test/", "Accept-Encoding: *")
			policytest.Answer(x, 200, "", "Content-Type: text/plain")
			x.ResponseBody, x.ResponseLength = &parts{in: samples()[9], script: []byte{100}}, -1
			p.Encode(x)
			var wg sync.WaitGroup
			wg.Go(func() { _ = x.ResponseBody.Close() })
			if _, err := io.Copy(io.Discard, x.ResponseBody); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			p.Finish(x)
			if p.store.Used() != 0 {
				t.Fatal("memory stays taken, or was given back twice")
			}
		}
	}
}
