package app

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// keysApp is a gateway whose configuration is in force, without its sockets.
func keysApp(t *testing.T, text string) *App {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "sidegate.hcl")
	text = "state_dir = \"" + dir + "/state\"\n" + text
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{Config: path, Stderr: io.Discard, Env: func(string) (string, bool) { return "", false }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.group.Close(t.Context()) })
	r, err := a.prepare(a.file, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.keys.setFiles(a.file, r.consumers, r.personal.Sets())
	a.keys.know() // there is no Consul
	return a
}

const keysText = `
plan "gold" {}
consumer "acme" {
  plan = "gold"
  api_key { sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
  jwt { subject = "a" }
}
route "keys" {
  hosts = ["keys.test"]
  auth "api_key" {}
  respond { body = "in" }
}
`

func statusOf(err error) int {
	var e *admin.Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// TestConfiguredKeys: what stands in a file is listed, and changed there only.
func TestConfiguredKeys(t *testing.T) {
	a := keysApp(t, keysText)
	page, err := a.Keys(t.Context(), "acme", "", 10)
	if err != nil || len(page.Keys) != 1 || page.Keys[0].ID != "9f86d081884c" || page.Keys[0].State != "active" || !strings.Contains(page.Keys[0].Origin, "sidegate.hcl:6:3") {
		t.Errorf("Keys = %+v, %v", page, err)
	}
	for what, f := range map[string]func() error{
		"revoke": func() error { _, err := a.RevokeKey(t.Context(), "9f86d081884c"); return err },
		"rotate": func() error { _, err := a.RotateKey(t.Context(), "9f86", "", ""); return err },
	} {
		if err := f(); statusOf(err) != http.StatusConflict || !strings.Contains(err.Error(), `key 9f86d081884c of consumer "acme" stands in`) || !strings.Contains(err.Error(), "sidegate.hcl:6:3: change it there") {
			t.Errorf("%s: %v", what, err)
		}
	}
	k, err := a.CreateKey(t.Context(), "acme", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.RevokeKey(t.Context(), k.ID[:3]); statusOf(err) != http.StatusBadRequest {
		t.Errorf("three digits: %v", err)
	}
}

// TestConsumersOfKV: each is by itself: what is wrong with one harms no other.
func TestConsumersOfKV(t *testing.T) {
	a := keysApp(t, keysText)
	docs := map[string]string{
		"sidegate/consumers/good":   "consumer \"good\" {\n  plan = \"gold\"\n  jwt { subject = \"g\" }\n}",
		"sidegate/consumers/file":   `consumer "acme" {}`,
		"sidegate/consumers/plan":   `consumer "plan" { plan = "golf" }`,
		"sidegate/consumers/syntax": `consumer "syntax" {`,
		"sidegate/consumers/route":  `route "r" { hosts = ["a.test"] }`,
		"sidegate/consumers/env":    "consumer \"env\" {\n  labels = { team = env(\"HOME\") }\n}",
		"sidegate/consumers/key":    "consumer \"key\" {\n  api_key { sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }\n}",
		"sidegate/consumers/two":    "consumer \"one\" {}\nconsumer \"two\" {}",
		"sidegate/consumers/zgood":  `consumer "good" {}`,
	}
	take := func() {
		texts := map[string][]byte{}
		for key, text := range docs {
			texts[key] = []byte(text)
		}
		a.keys.setDocuments(texts, time.Time{})
	}
	take()
	want := map[string]string{
		"file":   "stands in the configuration's files, too",
		"plan":   `there is no plan "golf"`,
		"syntax": "unclosed configuration block",
		"route":  `unknown block "route"`,
		"env":    "function calls not allowed",
		"key":    `consumer "acme" has the same key`,
		"zgood":  `there is another consumer "good", which comes first`,
	}
	for _, p := range a.keys.problems() {
		name := strings.TrimPrefix(p.Where, "KV sidegate/consumers/")
		if w, ok := want[name]; !ok || !strings.Contains(p.Text, w) {
			t.Errorf("problem %+v, want %q", p, w)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not told: %v", want)
	}
	names := func() (list []string) {
		for _, c := range a.Consumers("", 100).Consumers {
			list = append(list, c.Name)
		}
		return list
	}
	if got, want := names(), []string{"acme", "good", "one", "two"}; !cmp.Equal(got, want) {
		t.Errorf("consumers %v, want %v", got, want)
	}
	if _, err := a.PutConsumer(t.Context(), "two", admin.ConsumerInput{Plan: "gold"}); statusOf(err) != http.StatusConflict || !strings.Contains(err.Error(), "which the gateway didn't write") {
		t.Errorf("one of two in a document: %v", err)
	}
	delete(docs, "sidegate/consumers/good")
	delete(docs, "sidegate/consumers/two")
	take()
	if got, want := names(), []string{"acme", "good"}; !cmp.Equal(got, want) {
		t.Errorf("consumers %v, want %v", got, want)
	}
	// What Consul had says nothing once it has said what it has.
	a.keys.setDocuments(map[string][]byte{"sidegate/consumers/old": []byte(`consumer "old" {}`)}, time.Now())
	if got, want := names(), []string{"acme", "good"}; !cmp.Equal(got, want) {
		t.Errorf("consumers %v, want %v", got, want)
	}
}

// TestKeysOfKV: a record that is wrong puts its own keys out of use.
func TestKeysOfKV(t *testing.T) {
	a := keysApp(t, keysText)
	secret, h := consumer.NewSecret()
	r := consumer.Record{Keys: []consumer.Key{{Hash: h, Created: 1}}}
	good := map[string][]byte{"acme": r.Text(), "x": []byte("{"), "a/b": r.Text(), "%zz": r.Text()}
	a.keys.takeKeys(good)
	find := func() string {
		files, _ := a.keys.directories()
		_, s := files.Find([]byte(secret), time.Now())
		return s.String()
	}
	if got := find(); got != "active" {
		t.Errorf("the key is %s", got)
	}
	if n := len(a.keys.problems()); n != 3 {
		t.Errorf("problems: %+v", a.keys.problems())
	}
	a.keys.takeKeys(map[string][]byte{"acme": []byte("[]")})
	if got := find(); got != "unknown" || len(a.keys.problems()) != 1 {
		t.Errorf("the key of a broken record is %s, problems %v", got, a.keys.problems())
	}
	a.keys.takeKeys(map[string][]byte{"acme": r.Text()})
	if got := find(); got != "active" || len(a.keys.problems()) != 0 {
		t.Errorf("the key of a mended record is %s, problems %v", got, a.keys.problems())
	}
}

// TestRevocationsLast: a key that is revoked here, and that Consul hasn't heard of,
// isn't in use again because Consul's record of it was away.
func TestRevocationsLast(t *testing.T) {
	a := keysApp(t, keysText)
	s := a.keys
	secret, h := consumer.NewSecret()
	text := (&consumer.Record{Keys: []consumer.Key{{Hash: h, Created: 1}}}).Text()
	s.takeKeys(map[string][]byte{"acme": text})
	if err := s.disk.Lift(h, consumer.Revocation{Consumer: "acme", At: 7}); err != nil {
		t.Fatal(err)
	}
	s.ring.Lift(map[consumer.Hash]int64{h: 7})
	files, _ := s.directories()
	for what, away := range map[string]func(){
		"broken":   func() { s.takeKeys(map[string][]byte{"acme": []byte("{")}) },
		"no block": func() { s.setFiles(a.file, files, nil) },
	} {
		away()
		if len(s.disk.Lifted()) != 1 {
			t.Fatalf("%s: the disk has forgotten the revocation", what)
		}
		s.takeKeys(map[string][]byte{"acme": text})
		if _, state := files.Find([]byte(secret), time.Now()); state != consumer.Revoked {
			t.Errorf("%s: the key is %s", what, state)
		}
	}

	// Its only trace on the disk stays until a snapshot has it.
	heard := func() int {
		r := consumer.Record{Keys: []consumer.Key{{Hash: h, Created: 1, Revoked: 7}}}
		all := map[string][]byte{"acme": r.Text()}
		s.snapshots.Save("keys", all)
		s.takeKeys(all)
		return len(s.disk.Lifted())
	}
	folder := filepath.Join(a.file.StateDir, "snapshots")
	if err := errors.Join(os.RemoveAll(folder), os.WriteFile(folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if heard() != 1 {
		t.Error("the disk has forgotten the revocation without a snapshot")
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if heard() != 0 {
		t.Error("the disk keeps the revocation")
	}
}

// TestWithoutConsul: what Consul had holds no longer than the consul block.
func TestWithoutConsul(t *testing.T) {
	a := keysApp(t, keysText)
	secret, h := consumer.NewSecret()
	a.keys.takeKeys(map[string][]byte{"acme": (&consumer.Record{Keys: []consumer.Key{{Hash: h}}}).Text()})
	a.keys.setDocuments(map[string][]byte{"sidegate/consumers/kv": []byte(`consumer "kv" {}`)}, time.Time{})
	files, more := a.keys.directories()
	if _, s := files.Find([]byte(secret), time.Now()); s != consumer.Active || more.Named("kv") == nil {
		t.Fatalf("%v, %v", s, more.Named("kv"))
	}
	a.keys.setFiles(a.file, files, nil)
	files, more = a.keys.directories()
	if _, s := files.Find([]byte(secret), time.Now()); s != consumer.Unknown || more.Named("kv") != nil {
		t.Errorf("%v, %v", s, more.Named("kv"))
	}
}

// TestChangesAtOnce: many change keys and consumers while others ask; run it with
// -race.
func TestChangesAtOnce(t *testing.T) {
	a := keysApp(t, keysText)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			name := fmt.Sprint("c", i)
			for n := range 5 {
				if _, err := a.PutConsumer(t.Context(), name, admin.ConsumerInput{Plan: "gold", Labels: map[string]string{"n": fmt.Sprint(n)}}); err != nil {
					t.Error(err)
					return
				}
				k, err := a.CreateKey(t.Context(), name, "1h")
				if err != nil {
					t.Error(err)
					return
				}
				files, _ := a.keys.directories()
				if c, s := files.Find([]byte(k.Secret), time.Now()); s != consumer.Active || c.Labels["n"] != fmt.Sprint(n) {
					t.Errorf("a new key of %s is %v, of %+v", name, s, c)
				}
				if _, err := a.RevokeKey(t.Context(), k.ID); err != nil {
					t.Error(err)
				}
				if _, s := files.Find([]byte(k.Secret), time.Now()); s != consumer.Revoked {
					t.Errorf("a revoked key is %v", s)
				}
				_, _ = a.Keys(t.Context(), "", "", 100)
				_ = a.Status()
			}
			if err := a.DeleteConsumer(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if page := a.Consumers("", 10); len(page.Consumers) != 1 {
		t.Errorf("left: %+v", page)
	}
}
