package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const (
	topEvery   = time.Second
	topTimeout = 5 * time.Second
	topRows    = 1000 // of a list, at most
)

func topCommand() *cobra.Command {
	var path, by string
	var once bool
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch the traffic of the running gateway",
		Long: `Watch requests, errors, latency and bandwidth by route, service or consumer, of the
last ten seconds, each second anew. Keys: r, s and c choose routes, services or
consumers (those need a usage block); t, e, l, b, n and a sort by traffic, errors,
latency, bytes, name and all requests, and the same key again turns it round; arrows,
page up and page down scroll; q ends it.

Without a terminal, or with --once, it prints how things are and ends.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := topView{sort: 't'}
			switch by {
			case "route", "service", "consumer":
				v.by = by[0]
			default:
				return fmt.Errorf("by: %q isn't route, service or consumer", by)
			}
			t := &topSource{socket: socketPath(path)}
			if term := openTerminal(os.Stdin, os.Stdout); term != nil && !once {
				return term.use(func() error { return (&top{source: t, view: v, term: term}).run(c.Context()) })
			}
			return topOnce(c.Context(), c.OutOrStdout(), t, v)
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&by, "by", "route", "what to begin with: route, service or consumer")
	c.Flags().BoolVar(&once, "once", false, "print how things are, and end")
	return c
}

// topOnce prints one picture without any control sequence.
func topOnce(ctx context.Context, out io.Writer, t *topSource, v topView) error {
	s, err := t.get(ctx, v)
	if err == nil && v.by == 'c' && s.note == "" { // rates are between two answers
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(topEvery):
		}
		s, err = t.get(ctx, v)
	}
	if err != nil {
		return err
	}
	for _, line := range s.lines(v, 0, 0) {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}

// top is a picture that lives.
type top struct {
	source *topSource
	view   topView
	term   *terminal

	last   *topPicture
	failed error
	since  time.Time // when it first failed
}

// topResult is what asking brought.
type topResult struct {
	picture *topPicture
	err     error
}

// run shows it until q or the end of ctx. It awaits the goroutines that ask and read
// keys.
func (t *top) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	keys := make(chan byte)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.term.keys(ctx, keys)
	}()
	defer func() { cancel(); <-ended }()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	results := make(chan topResult, 1)
	asking := false
	ask := func() {
		if asking {
			return
		}
		asking = true
		view := t.view
		go func() { // ends with topTimeout
			ctx, cancel := context.WithTimeout(ctx, topTimeout)
			defer cancel()
			p, err := t.source.get(ctx, view)
			results <- topResult{p, err}
		}()
	}
	defer func() {
		cancel()
		if asking {
			<-results
		}
	}()
	ask()
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			ask()
		case <-resized:
		case k := <-keys:
			if k == 'q' || k == 3 { // Ctrl-C
				return nil
			}
			t.view.key(k)
			t.view.scrolls = min(t.view.scrolls, t.last.count())
			ask()
		case r := <-results:
			asking = false
			if r.err != nil && t.last == nil {
				return r.err
			}
			t.got(r)
			if t.last.by != t.view.by {
				ask()
			}
		}
		t.draw()
	}
}

func (t *top) got(r topResult) {
	switch {
	case r.err == nil:
		t.last, t.failed = r.picture, nil
	case t.failed == nil:
		t.failed, t.since = r.err, time.Now()
	default:
		t.failed = r.err
	}
}

func (t *top) draw() {
	if t.last == nil {
		return
	}
	width, height := t.term.size()
	lines := t.last.lines(t.view, width, height)
	if t.failed != nil && len(lines) > 3 {
		lines[3] = cut(fmt.Sprintf("no answer for %s: %v", time.Since(t.since).Round(time.Second), t.failed), width)
	}
	t.term.draw(lines)
}
