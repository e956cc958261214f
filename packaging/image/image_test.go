package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestImage builds by our Dockerfile, twice, in two folders with other times.
func TestImage(t *testing.T) {
	text, err := os.ReadFile("../docker/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1764036000, 0).UTC()
	var archives [2][]byte
	for i := range archives {
		dir := t.TempDir()
		for name, mode := range map[string]os.FileMode{"root/usr/bin": 0o755, "root/tmp": 0o777 | os.ModeSticky, "root/var/lib": 0o755, "state/sidegate": 0o700} {
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, name), 0o755), os.Chmod(filepath.Join(dir, name), mode)); err != nil {
				t.Fatal(err)
			}
		}
		for name, content := range map[string]string{"Dockerfile": string(text), "root/usr/bin/sidegate": "binary"} {
			if err := errors.Join(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600), os.Chtimes(filepath.Join(dir, name), at, at.AddDate(0, i, 0))); err != nil {
				t.Fatal(err)
			}
		}
		out := filepath.Join(dir, "image.tar")
		if err := run(out, dir, "arm64", "1.2.3", at); err != nil {
			t.Fatal(err)
		}
		if archives[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same files gave two archives")
	}
	files, _ := untar(t, bytes.NewReader(archives[0]))
	var m []manifest
	if err := json.Unmarshal(files["manifest.json"], &m); err != nil || len(m) != 1 || m[0].RepoTags[0] != "sidegate:1.2.3" {
		t.Fatalf("manifest %+v, %v", m, err)
	}
	z, err := gzip.NewReader(bytes.NewReader(files[m[0].Layers[0]]))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	layer, headers := untar(t, bytes.NewReader(plain))
	if string(layer["usr/bin/sidegate"]) != "binary" {
		t.Error("no binary in the layer")
	}
	for name, want := range map[string][2]int64{"tmp/": {0o1777, 0}, "var/lib/": {0o755, 0}, "var/lib/sidegate/": {0o700, 65532}} {
		if h := headers[name]; h == nil || h.Mode != want[0] || int64(h.Uid) != want[1] || !h.ModTime.Equal(at) {
			t.Errorf("%s: %+v, want mode %o of %d", name, h, want[0], want[1])
		}
	}
	var img image
	if err := json.Unmarshal(files[m[0].Config], &img); err != nil {
		t.Fatal(err)
	}
	c := img.Config
	if img.Architecture != "arm64" || img.RootFS.DiffIDs[0] != "sha256:"+sum(plain) || c.User != "65532:65532" || c.StopSignal != "SIGTERM" ||
		len(c.ExposedPorts) != 3 || len(c.Volumes) != 1 || c.Healthcheck.Interval != 10*time.Second || len(c.Healthcheck.Test) != 4 || c.Entrypoint[0] != "/usr/bin/sidegate" {
		t.Errorf("configuration %+v", img)
	}
}

// TestRefused: what isn't understood is no silent part of an image.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"FROM debian":                           "line 1 of the Dockerfile",
		"FROM scratch\nRUN true":                "line 2 of the Dockerfile: RUN",
		"COPY a /b":                             "COPY FOLDER/",
		"COPY --chown=sidegate:sidegate a/ /b/": "numbers",
		"CMD run":                               "CMD",
		"HEALTHCHECK --start=1s CMD [\"a\"]":    "start",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", text, err, want)
		}
	}
}

func untar(t *testing.T, r io.Reader) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	files, headers := map[string][]byte{}, map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = h
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}
