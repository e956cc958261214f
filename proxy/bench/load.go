package main

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// browser is what a browser sends beside Host; wrk by itself sends Host alone.
var browser = []string{
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
	"Accept-Language: en-GB,en;q=0.5",
	"Accept-Encoding: gzip, deflate, br, zstd",
	"Referer: http://localhost/catalogue/items?page=4",
	"Cookie: session=3f2a9c64f0d24d6ab1c9a3e7; theme=dark; consent=1",
	"Sec-Fetch-Dest: document",
	"Sec-Fetch-Mode: navigate",
	"Cache-Control: no-cache",
}

var (
	wrkCount    = regexp.MustCompile(`(\d+) requests in`)
	wrkBad      = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)|Socket errors: .*`)
	h2loadCount = regexp.MustCompile(`(\d+) succeeded, (\d+) failed`)
)

// load runs a load generator on the core that isn't the contender's and returns
// how many requests were answered, and what CPU that took the generator; a failed
// request fails the run.
func (b *bed) load(w work, port int, length time.Duration) (n int, used time.Duration, err error) {
	seconds := strconv.Itoa(int(length.Seconds()))
	scheme := "http"
	if w.tls {
		scheme = "https"
	}
	url := fmt.Sprintf("%s://127.0.0.1:%d%s", scheme, port, w.path)
	var args []string
	switch w.tool {
	case "wrk":
		args = []string{b.tools["wrk"], "-t1", "-c" + strconv.Itoa(w.conns), "-d" + seconds + "s"}
		for _, h := range w.headers {
			args = append(args, "-H", h)
		}
		args = append(args, url)
	case "h2load":
		args = []string{b.tools["h2load"], "-t1", "-c" + strconv.Itoa(w.conns), "-m" + strconv.Itoa(w.streams), "-D" + seconds}
		for _, h := range w.headers {
			args = append(args, "-H", h)
		}
		args = append(args, url)
	default:
		args = []string{b.self, "-load", w.tool, "-address", fmt.Sprintf("127.0.0.1:%d", port),
			"-conns", strconv.Itoa(w.conns), "-streams", strconv.Itoa(w.streams), "-length", length.String()}
	}
	cmd := b.command("1", args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %s", err, out)
	}
	n, err = answered(w.tool, out)
	return n, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
}

// answered is how many requests a load generator says were answered.
func answered(tool string, out []byte) (int, error) {
	switch tool {
	case "wrk":
		if bad := wrkBad.Find(out); bad != nil {
			return 0, errors.New(string(bad))
		}
		return number(wrkCount.FindSubmatch(out))
	case "h2load":
		m := h2loadCount.FindSubmatch(out)
		if m == nil || string(m[2]) != "0" {
			return 0, fmt.Errorf("failed requests: %s", out)
		}
		return number(m)
	default:
		n, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err == nil && n == 0 {
			err = errors.New("no request was answered")
		}
		return n, err
	}
}

// command is a program on the given cores that ends with the run.
func (b *bed) command(cores string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, "taskset", append([]string{"-c", cores}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func number(m [][]byte) (int, error) {
	if m == nil {
		return 0, errors.New("the load generator printed no count")
	}
	n, err := strconv.Atoi(string(m[1]))
	if err == nil && n == 0 {
		err = errors.New("no request was answered")
	}
	return n, err
}
