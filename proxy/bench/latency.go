package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const latencyName = "p99 at 60 % of nginx's saturation rate"

// quantiles are of one turn, in microseconds.
type quantiles struct {
	P50, P99, P999 float64
	Count          int
}

// latencies measures and prints how long requests take at a fixed rate.
func (b *bed) latencies(o options) error {
	if !strings.Contains(latencyName, o.only) {
		return nil
	}
	saturation, err := b.saturation(o)
	if err != nil {
		return err
	}
	rate := saturation * 6 / 10
	names := []string{"sidegate", "nginx", "haproxy"}
	p50, p99, p999 := make([][]float64, 3), make([][]float64, 3), make([][]float64, 3)
	for round := range o.rounds + 1 {
		for turn := range names {
			i := (turn + round) % len(names)
			q, err := b.latency(names[i], rate, o.length)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", latencyName, names[i], err)
			}
			if round > 0 {
				p50[i], p99[i], p999[i] = append(p50[i], q.P50), append(p99[i], q.P99), append(p999[i], q.P999)
			}
		}
	}
	fmt.Printf("\n%s: %d requests a second over 64 plain connections, open loop, timed from when each was due\n\n", latencyName, rate)
	fmt.Println("| contender | sidegate's p99 to its [95 %] | p50 us | p99 us | p99.9 us |\n|---|---|---|---|---|")
	for i, name := range names {
		fmt.Printf("| %s | %s | %.0f | %.0f | %.0f |\n", name, ratioOf(p99[0], p99[i]), median(p50[i]), median(p99[i]), median(p999[i]))
	}
	if slowest := max(median(p50[0]), median(p50[1]), median(p50[2])); slowest > 5000 {
		fmt.Printf("\nNot a result: a median of %.0f ms means that the core of the generator and the backend couldn't hold the rate; is something else running?\n", slowest/1000)
	}
	return nil
}

// saturation is how many requests a second nginx answers, in the median turn, to
// the generator that will also hold the rate: it shares a core with the backend
// and may well be what saturates.
func (b *bed) saturation(o options) (int, error) {
	var each []float64
	for range 5 {
		q, err := b.latency("nginx", 0, o.length)
		if err != nil {
			return 0, err
		}
		each = append(each, float64(q.Count)/o.length.Seconds())
	}
	return int(median(each)), nil
}

func (b *bed) latency(name string, rate int, length time.Duration) (quantiles, error) {
	var q quantiles
	p, err := b.get(name)
	if err != nil {
		return q, err
	}
	out, err := b.command("1", b.self, "-load", "rate", "-address", fmt.Sprintf("127.0.0.1:%d", p.ports["plain"]),
		"-conns", "64", "-rate", strconv.Itoa(rate), "-length", length.String()).CombinedOutput()
	if err != nil {
		return q, fmt.Errorf("%w: %s", err, out)
	}
	return q, json.Unmarshal(out, &q)
}

// openLoop sends requests at a fixed rate whatever the answers do, and times
// each from the moment it was due, so that a slow server can't hide its queue
// by slowing the client. One thread and ppoll: Go's timers are too coarse.
func (g *generator) openLoop() error {
	fds, closers, err := g.dialAll()
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range closers {
			_ = c.Close() // nothing is in flight any more
		}
	}()
	request := []byte("GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
	var gap time.Duration // none: as fast as the answers come
	if g.rate > 0 {
		gap = time.Second / time.Duration(g.rate)
	}
	var (
		free   []int                         // connections without a request
		dueAt  = make([]time.Time, len(fds)) // of the request on each
		buf    = make([]byte, 4096)
		took   []time.Duration
		start  = time.Now()
		end    = start.Add(g.length)
		next   = start
		inside = 0
	)
	for i := range fds {
		free = append(free, i)
	}
	for {
		now := time.Now()
		if gap == 0 {
			next = now
		}
		for ; len(free) > 0 && !next.After(now) && next.Before(end); next = next.Add(gap) {
			i := free[0] // the one that has rested longest
			free = free[1:]
			dueAt[i] = next
			inside++
			if n, err := unix.Write(int(fds[i].Fd), request); err != nil || n != len(request) {
				return fmt.Errorf("write: %d, %w", n, err)
			}
		}
		if inside == 0 && !next.Before(end) {
			break
		}
		wait := 5 * time.Second
		if next.Before(end) && len(free) > 0 {
			wait = max(time.Until(next), 0)
		}
		ts := unix.NsecToTimespec(int64(wait))
		ready, err := unix.Ppoll(fds, &ts, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ready == 0 && wait == 5*time.Second {
			return errors.New("no answer for 5 s")
		}
		for i := range fds {
			if ready <= 0 || fds[i].Revents == 0 {
				continue
			}
			n, err := unix.Read(int(fds[i].Fd), buf)
			if err != nil || !bytes.HasPrefix(buf[:max(n, 0)], []byte("HTTP/1.1 200 ")) || !bytes.HasSuffix(buf[:n], []byte("xxxxx")) {
				return fmt.Errorf("an odd answer: %q, %w", buf[:max(n, 0)], err)
			}
			took = append(took, time.Since(dueAt[i]))
			free = append(free, i)
			inside--
		}
	}
	return printQuantiles(took)
}

func printQuantiles(took []time.Duration) error {
	slices.Sort(took)
	at := func(share float64) float64 {
		return float64(took[int(share*float64(len(took)-1))].Nanoseconds()) / 1000
	}
	out, err := json.Marshal(quantiles{at(0.5), at(0.99), at(0.999), len(took)})
	fmt.Println(string(out))
	return err
}

// dialAll opens the connections and takes them out of Go's poller.
func (g *generator) dialAll() ([]unix.PollFd, []interface{ Close() error }, error) {
	var fds []unix.PollFd
	var closers []interface{ Close() error }
	for range g.conns {
		c, err := net.Dial("tcp", g.address)
		if err != nil {
			return nil, nil, err
		}
		f, err := c.(*net.TCPConn).File() // a duplicate, in blocking mode
		if err != nil {
			return nil, nil, err
		}
		_ = c.Close() // f stays
		fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
		closers = append(closers, f)
	}
	return fds, closers, nil
}
