package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// Load reads the file at path, or all *.hcl and *.hcl.json of the folder at
// path as one. The File is usable when the Diagnostics have no errors.
func Load(path string, opt Options) (*File, *Diagnostics) {
	diags := &Diagnostics{}
	names, err := find(path)
	if err != nil {
		diags.Errorf(hcl.Range{}, "Say where the configuration is with -config PATH.", "%v", plain(err))
		return &File{}, diags
	}
	if len(names) == 0 {
		diags.Errorf(hcl.Range{}, "Write one, sidegate.hcl for example, or name another folder with -config.", "%s has no *.hcl file", path)
		return &File{}, diags
	}
	var docs []*document
	for _, name := range names {
		doc, err := read(name)
		if err != nil {
			diags.Errorf(hcl.Range{Filename: name}, "", "%v", plain(err))
			continue
		}
		docs = append(docs, doc)
	}
	f, d := decode(path, docs, opt, diags)
	f.Files = append(names, d.opened...)
	slices.Sort(f.Files[len(names):])
	f.Files = slices.Compact(f.Files)
	return f, diags
}

// Parse reads one text as if it were the whole configuration. A name that ends
// in .json makes it JSON; relative paths are relative to the working folder.
func Parse(name string, src []byte, opt Options) (*File, *Diagnostics) {
	diags := &Diagnostics{}
	f, _ := decode(name, []*document{{name: name, src: src}}, opt, diags)
	return f, diags
}

// decode makes a File of all documents and checks it.
func decode(path string, docs []*document, opt Options, diags *Diagnostics) (*File, *decoder) {
	f := &File{}
	d := newDecoder(opt, diags)
	Defaults(f)
	if dir, ok := opt.env("STATE_DIRECTORY"); ok && dir != "" {
		f.StateDir, _, _ = strings.Cut(dir, ":")
	}
	whole := diags.failed == 0 // what is missing may stand in what couldn't be read
	for _, doc := range docs {
		if !doc.parse(diags) {
			whole = false
			if dir := doc.stateDir(); dir != "" {
				f.StateDir = dir
			}
			continue
		}
		d.body(doc, doc.body, f, "")
	}
	whole = d.unique(f) && whole
	d.sidecarDefaults(f, path)
	d.fromEnvironment(f)
	d.implied(f)
	f.impliedServices = map[*upstream.Config]bool{}
	c := &checker{decoder: d, file: f, whole: whole}
	c.all()
	f.note(d)
	return f, d
}

// unique reports blocks of one kind and label.
func (d *decoder) unique(f *File) bool {
	seen := map[string]hcl.Range{}
	ok := true
	see := func(kind, label string, v any) {
		key := kind + " " + label
		if first, dup := seen[key]; dup {
			ok = false
			d.diags.Add(Diagnostic{
				Text: fmt.Sprintf("there are two blocks %s %q", kind, label), Range: d.at(v, ""), Also: first,
				Advice: "Rename or remove one of them.",
			})
			return
		}
		seen[key] = d.at(v, "")
	}
	for _, l := range f.Listeners {
		see("listener", l.Name, l)
	}
	for _, s := range f.Services {
		see("service", s.Name, s)
	}
	for _, b := range f.Bundles {
		see("policy", b.Name, b)
	}
	for _, p := range f.Plans {
		see("plan", p.Name, p)
	}
	for _, p := range f.Consumers {
		see("consumer", p.Name, p)
	}
	for _, r := range f.Routes {
		see("route", r.Name, r)
	}
	for _, s := range f.Sidecars {
		see("sidecar", s.Name, s)
	}
	return ok
}

// fromEnvironment fills in what Consul's own tools take from the environment.
func (d *decoder) fromEnvironment(f *File) {
	address, ok := d.opt.env("CONSUL_HTTP_ADDR")
	if f.Consul == nil {
		if (!ok || address == "") && len(f.Sidecars) == 0 {
			return
		}
		f.Consul = &consul.Config{}
		Defaults(f.Consul)
	}
	fill := func(target *string, name string) {
		if v, ok := d.opt.env(name); ok && *target == "" {
			*target = v
		}
	}
	c := f.Consul
	if c.Address == "" && address != "" {
		c.Address = address
		if ssl, _ := d.opt.env("CONSUL_HTTP_SSL"); (ssl == "1" || ssl == "true") && !strings.Contains(address, "://") {
			c.Address = "https://" + address
		}
	}
	fill((*string)(&c.Token), "CONSUL_HTTP_TOKEN")
	fill(&c.CAFile, "CONSUL_CACERT")
	fill(&c.CertFile, "CONSUL_CLIENT_CERT")
	fill(&c.KeyFile, "CONSUL_CLIENT_KEY")
	if path, ok := d.opt.env("CONSUL_HTTP_TOKEN_FILE"); ok && c.Token == "" && path != "" {
		b, _, err := readBounded(path, maxSecret)
		if err != nil {
			d.diags.Errorf(d.at(c, ""), "", "$CONSUL_HTTP_TOKEN_FILE: %v", plain(err))
			return
		}
		*(*string)(&c.Token) = strings.TrimSpace(string(b))
		d.opened = append(d.opened, path)
	}
}

// implied adds what is so without being written.
func (d *decoder) implied(f *File) {
	if _, given := d.places[place{f, "listener"}]; !given && !f.sidecarOnly {
		for _, l := range []proxy.ListenerConfig{
			{Name: "https", Address: ":443", TLS: true},
			{Name: "http", Address: ":80", RedirectHTTPS: true},
		} {
			c := &proxy.ListenerConfig{}
			Defaults(c)
			c.Name, c.Address, c.TLS, c.RedirectHTTPS = l.Name, l.Address, l.TLS, l.RedirectHTTPS
			f.Listeners = append(f.Listeners, c)
		}
	}
	for _, l := range f.Listeners {
		if _, given := d.places[place{l, "protocols"}]; given {
			continue
		}
		l.Protocols = []string{"h1", "h2"}
		// QUIC has no PROXY header in front of it.
		if l.TLS && !l.ProxyProtocol {
			l.Protocols = append(l.Protocols, "h3")
		}
	}
}
