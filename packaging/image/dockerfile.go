package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// recipe is what a Dockerfile says.
type recipe struct {
	copies []copyLine
	config config
}

// copyLine is COPY [--chown=UID:GID] FROM/ /TO/: the contents of a folder.
type copyLine struct {
	from, to string
	uid, gid int
}

type config struct {
	User         string              `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string
	Entrypoint   []string            `json:",omitempty"`
	Cmd          []string            `json:",omitempty"`
	Healthcheck  *health             `json:",omitempty"`
	Volumes      map[string]struct{} `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
	Labels       map[string]string   `json:",omitempty"`
}

type health struct {
	Test                           []string
	Interval, Timeout, StartPeriod time.Duration // nanoseconds in JSON, as Docker has them
	Retries                        int
}

// parse reads the instructions that our Dockerfile uses, one a line.
func parse(text string) (*recipe, error) {
	r := &recipe{config: config{Env: []string{"PATH=/usr/bin"}, ExposedPorts: map[string]struct{}{}, Volumes: map[string]struct{}{}}}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		if err := r.instruction(word, strings.TrimSpace(rest)); err != nil {
			return nil, fmt.Errorf("line %d of the Dockerfile: %s: %w", i+1, word, err)
		}
	}
	return r, nil
}

func (r *recipe) instruction(word, rest string) (err error) {
	c := &r.config
	switch word {
	case "FROM":
		if rest != "scratch" {
			err = errors.New("only scratch is understood")
		}
	case "COPY":
		err = r.copy(rest)
	case "USER":
		c.User = rest
	case "EXPOSE":
		for _, p := range strings.Fields(rest) {
			c.ExposedPorts[p] = struct{}{}
		}
	case "VOLUME":
		c.Volumes[rest] = struct{}{}
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "HEALTHCHECK":
		c.Healthcheck, err = healthcheck(rest)
	case "ENTRYPOINT":
		err = json.Unmarshal([]byte(rest), &c.Entrypoint)
	case "CMD":
		err = json.Unmarshal([]byte(rest), &c.Cmd)
	default:
		err = errors.New("isn't understood here")
	}
	return err
}

func (r *recipe) copy(rest string) error {
	var c copyLine
	words := strings.Fields(rest)
	if owner, ok := strings.CutPrefix(words[0], "--chown="); ok {
		uid, gid, _ := strings.Cut(owner, ":")
		var err, err2 error
		c.uid, err = strconv.Atoi(uid)
		c.gid, err2 = strconv.Atoi(gid)
		if err := errors.Join(err, err2); err != nil {
			return fmt.Errorf("--chown takes numbers: %w", err)
		}
		words = words[1:]
	}
	if len(words) != 2 || !strings.HasSuffix(words[0], "/") || !strings.HasPrefix(words[1], "/") || !strings.HasSuffix(words[1], "/") {
		return errors.New("only COPY FOLDER/ /FOLDER/ is understood")
	}
	c.from, c.to = words[0], words[1]
	r.copies = append(r.copies, c)
	return nil
}

func healthcheck(rest string) (*health, error) {
	options, command, ok := strings.Cut(rest, "CMD ")
	if !ok {
		return nil, errors.New("without CMD")
	}
	h := &health{}
	set := flag.NewFlagSet("HEALTHCHECK", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.DurationVar(&h.Interval, "interval", 0, "")
	set.DurationVar(&h.Timeout, "timeout", 0, "")
	set.DurationVar(&h.StartPeriod, "start-period", 0, "")
	set.IntVar(&h.Retries, "retries", 0, "")
	if err := set.Parse(strings.Fields(options)); err != nil {
		return nil, err
	}
	var argv []string
	if err := json.Unmarshal([]byte(command), &argv); err != nil {
		return nil, err
	}
	h.Test = append([]string{"CMD"}, argv...)
	return h, nil
}
