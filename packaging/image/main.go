// Image builds the container image of a Dockerfile FROM scratch: an archive for
// docker load and podman load. It reads the instructions that ours has and refuses
// others. Unlike the engines' own builders it needs neither a daemon nor root, and
// leaves no random names or times: the same folder gives the same bytes.
//
//	go run ./packaging/image -arch amd64 -version 1.2.3 -time 1764036000 -o image.tar FOLDER
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

func main() {
	arch := flag.String("arch", "amd64", "the binary's architecture")
	version := flag.String("version", "0.0.0-dev", "the image's tag and label")
	at := flag.Int64("time", 0, "the time of the image and its files, in seconds since 1970")
	out := flag.String("o", "", "the archive to write")
	flag.Parse()
	if err := run(*out, flag.Arg(0), *arch, *version, time.Unix(*at, 0).UTC()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(out, folder, arch, version string, at time.Time) error {
	if out == "" || folder == "" {
		return errors.New("say -o ARCHIVE and the folder to build in")
	}
	text, err := os.ReadFile(filepath.Join(folder, "Dockerfile"))
	if err != nil {
		return err
	}
	recipe, err := parse(string(text))
	if err != nil {
		return err
	}
	layer, err := layerOf(folder, recipe.copies, at)
	if err != nil {
		return err
	}
	recipe.config.Labels = map[string]string{
		"org.opencontainers.image.title":    "sidegate",
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.source":   "https://github.com/sidegate-proxy/sidegate",
	}
	archive, err := archiveOf(layer, recipe.config, arch, version, at)
	if err != nil {
		return err
	}
	return os.WriteFile(out, archive, 0o644)
}

// layerOf is the one layer: what the COPY lines say, in their order.
func layerOf(folder string, copies []copyLine, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	seen := map[string]bool{".": true}
	for _, c := range copies {
		root := filepath.Join(folder, c.from)
		err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, name)
			if err != nil {
				return err
			}
			to := path.Join(c.to, filepath.ToSlash(rel))[1:]
			if to == "" || rel == "." || seen[to] {
				return nil // of folders that are there already only the contents are copied
			}
			seen[to] = true
			return add(w, name, to, c.uid, c.gid, at)
		})
		if err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// add writes one file or folder.
func add(w *tar.Writer, name, to string, uid, gid int, at time.Time) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: to, Mode: int64(info.Mode().Perm()), Uid: uid, Gid: gid, ModTime: at, Typeflag: tar.TypeReg}
	if info.Mode()&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	if info.IsDir() {
		h.Name, h.Typeflag = to+"/", tar.TypeDir
		return w.WriteHeader(h)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is neither a file nor a folder", name)
	}
	h.Size = info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// image is the image's configuration, as Docker's image specification 1.2 has it.
type image struct {
	Created      time.Time `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       config    `json:"config"`
	RootFS       rootFS    `json:"rootfs"`
	History      []history `json:"history"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

type manifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// archiveOf puts the layer, the configuration and what names them into an archive.
func archiveOf(layer []byte, c config, arch, version string, at time.Time) ([]byte, error) {
	digest := sum(layer)
	conf, err := json.Marshal(image{
		Created: at, Architecture: arch, OS: "linux", Config: c,
		RootFS: rootFS{"layers", []string{"sha256:" + digest}}, History: []history{{at, "sidegate's Dockerfile"}},
	})
	if err != nil {
		return nil, err
	}
	m := manifest{sum(conf) + ".json", []string{"sidegate:" + version}, []string{digest + "/layer.tar.gz"}}
	index, err := json.Marshal([]manifest{m})
	if err != nil {
		return nil, err
	}
	packed, err := compress(layer) // the layer and not the archive: podman reads no compressed archives
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name    string
		content []byte
	}{{m.Layers[0], packed}, {m.Config, conf}, {"manifest.json", index}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content)), ModTime: at, Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func compress(p []byte) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(p); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func sum(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}
