package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// devtools is a real browser that is driven by the DevTools protocol, over a pipe:
// JSON messages with a zero byte behind each.
type devtools struct {
	t  *testing.T
	to *os.File

	mu      sync.Mutex // guards what follows, and the order of writes
	last    int
	waiting map[int]chan answer
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// newDevtools starts a browser that takes host for this machine, with whatever
// certificate it has.
func newDevtools(t *testing.T, host string) *devtools {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command(tool(t, "chromium"),
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-crash-reporter", "--user-data-dir="+filepath.Join(home, "profile"),
		"--host-resolver-rules=MAP "+host+" 127.0.0.1", "--ignore-certificate-errors", "--remote-debugging-pipe", "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, ".config"), "XDG_CACHE_HOME="+filepath.Join(home, ".cache"))
	theirs, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, answers, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{theirs, answers} // 3 and 4, as the browser has it
	var log bytes.Buffer
	cmd.Stderr = &log
	// Its helpers are in its group: none outlives the test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirs.Close(), answers.Close() // the browser has them
	d := &devtools{t: t, to: to, waiting: map[int]chan answer{}}
	var wg sync.WaitGroup
	wg.Go(func() { d.read(from) })
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
		_, _ = to.Close(), from.Close()
		wg.Wait()
		if t.Failed() {
			t.Logf("chromium said:\n%.2000s", log.String())
		}
	})
	return d
}

// read hands answers to who waits for them; events are of no use here.
func (d *devtools) read(from *os.File) {
	r := bufio.NewReader(from)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m struct {
			ID int
			answer
		}
		if json.Unmarshal(bytes.TrimRight(text, "\x00"), &m) != nil {
			continue
		}
		d.mu.Lock()
		c := d.waiting[m.ID]
		delete(d.waiting, m.ID)
		d.mu.Unlock()
		if c != nil {
			c <- m.answer
		}
	}
}

// call calls a method, of a tab's session or the browser's own, and decodes what it
// says into result.
func (d *devtools) call(session, method string, params, result any) {
	d.t.Helper()
	c := make(chan answer, 1)
	d.mu.Lock()
	d.last++
	message := map[string]any{"id": d.last, "method": method, "params": params}
	if session != "" {
		message["sessionId"] = session
	}
	d.waiting[d.last] = c
	text, err := json.Marshal(message)
	if err == nil {
		_, err = d.to.Write(append(text, 0))
	}
	d.mu.Unlock()
	if err != nil {
		d.t.Fatalf("%s: %v", method, err)
	}
	select {
	case a := <-c:
		if a.Error != nil {
			d.t.Fatalf("%s: %s", method, a.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(a.Result, result); err != nil {
				d.t.Fatalf("%s: %v", method, err)
			}
		}
	case <-time.After(patience):
		d.t.Fatalf("%s: no answer", method)
	}
}

// tab is a page of a browser.
type tab struct {
	*devtools
	context, session string
}

// person opens a tab with cookies of its own.
func (d *devtools) person() *tab {
	d.t.Helper()
	var c struct{ BrowserContextID string }
	d.call("", "Target.createBrowserContext", map[string]any{}, &c)
	return d.tab(c.BrowserContextID)
}

// another opens a tab of the same person.
func (b *tab) another() *tab {
	b.t.Helper()
	return b.tab(b.context)
}

func (d *devtools) tab(context string) *tab {
	d.t.Helper()
	var target struct{ TargetID string }
	d.call("", "Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": context}, &target)
	var attached struct{ SessionID string }
	d.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b := &tab{d, context, attached.SessionID}
	b.call(b.session, "Page.enable", nil, nil)
	return b
}

// open goes to an address, as if it were typed.
func (b *tab) open(url string) {
	b.t.Helper()
	b.call(b.session, "Page.navigate", map[string]any{"url": url}, nil)
}

// run evaluates an expression in the page; a promise's value is awaited.
func (b *tab) run(expression string) (value any, err error) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Text string }
	}
	b.call(b.session, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		return nil, errors.New(r.ExceptionDetails.Text)
	}
	return r.Result.Value, nil
}

// await waits until the page has loaded and an expression says true.
func (b *tab) await(what, expression string) {
	b.t.Helper()
	var url any
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		// While a page goes, there is nothing to ask.
		if v, err := b.run("document.readyState == 'complete' && (" + expression + ")"); err == nil && v == true {
			return
		}
		url, _ = b.run("location.href + ' ' + document.documentElement.innerText.slice(0, 500)") // for people
	}
	b.t.Fatalf("%s: the page is %v", what, url)
}

// cookies are those of a tab's person for an address, the ones that scripts can't
// see included.
func (b *tab) cookies(url string) (list []map[string]any) {
	b.t.Helper()
	var r struct{ Cookies []map[string]any }
	b.call(b.session, "Network.getCookies", map[string]any{"urls": []string{url}}, &r)
	return r.Cookies
}

// setCookie puts a cookie into the place of the one of that name.
func (b *tab) setCookie(url, name, value string) {
	b.t.Helper()
	b.call(b.session, "Network.setCookie", map[string]any{"url": url, "name": name, "value": value, "path": "/", "secure": true, "httpOnly": true, "sameSite": "Lax"}, nil)
}

func quote(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		return fmt.Sprintf("%q", text)
	}
	return string(b)
}
