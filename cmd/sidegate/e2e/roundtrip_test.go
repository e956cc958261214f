package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The round trip: generated messages pass the gateway to and from other
// implementations of HTTP, which must read what was sent but for the gateway's
// documented edits. The peers are net/http in HTTP/1.1 and h2c, Node, and nginx,
// which hands on to net/http what it has read.

// view is a message as somebody reads it. Bytes are runes, so that JSON keeps
// them; names are in lower case.
type view struct {
	Line, Host string
	Fields     map[string][]string
	Body       string
	Trailer    map[string][]string
}

func runes(s string) string {
	out := make([]rune, len(s))
	for i := range len(s) {
		out[i] = rune(s[i])
	}
	return string(out)
}

func octets(s string) string {
	var out []byte
	for _, r := range s {
		out = append(out, byte(r))
	}
	return string(out)
}

func lowerFields(h http.Header) map[string][]string {
	out := map[string][]string{}
	for name, values := range h {
		for _, v := range values {
			out[strings.ToLower(name)] = append(out[strings.ToLower(name)], runes(v))
		}
	}
	return out
}

// order is what a backend is told to answer, in X-Answer.
type order struct {
	Status  int
	Fields  [][2]string
	Chunks  []string
	Length  bool
	Trailer [][2]string
}

// peer is the backend in net/http: it tells what it saw, or answers as ordered.
func peer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if text := r.Header.Get("X-Answer"); text != "" {
		obey(w, text)
		return
	}
	v := view{Line: r.Method + " " + runes(r.RequestURI), Host: r.Host, Fields: lowerFields(r.Header), Body: runes(string(body)), Trailer: lowerFields(r.Trailer)}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a gateway that is gone is noticed there
}

func obey(w http.ResponseWriter, text string) {
	var o order
	b, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	h["Content-Type"], h["Date"] = nil, nil
	for _, f := range o.Fields {
		h[f[0]] = append(h[f[0]], octets(f[1]))
	}
	if o.Length {
		h.Set("Content-Length", fmt.Sprint(len(octets(strings.Join(o.Chunks, "")))))
	}
	w.WriteHeader(o.Status)
	for _, c := range o.Chunks {
		if _, err := io.WriteString(w, octets(c)); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
	}
	for _, f := range o.Trailer {
		h[http.TrailerPrefix+f[0]] = []string{octets(f[1])}
	}
}

// nodePeer is peer for Node.
const nodePeer = `
const http = require('http');
http.createServer({ keepAliveTimeout: 60000 }, (req, res) => {
  const body = [];
  req.on('data', (c) => body.push(c));
  req.on('end', () => {
    const group = (raw) => {
      const out = {};
      for (let i = 0; i < raw.length; i += 2) (out[raw[i].toLowerCase()] ??= []).push(raw[i + 1]);
      return out;
    };
    const text = req.headers['x-answer'];
    if (!text) {
      const v = { Line: req.method + ' ' + req.url, Host: req.headers.host, Fields: group(req.rawHeaders), Body: Buffer.concat(body).toString('latin1'), Trailer: group(req.rawTrailers) };
      res.setHeader('Content-Type', 'application/json');
      res.end(JSON.stringify(v));
      return;
    }
    const o = JSON.parse(Buffer.from(text, 'base64').toString('utf8'));
    const chunks = (o.Chunks ?? []).map((c) => Buffer.from(c, 'latin1'));
    const head = (o.Fields ?? []).flat();
    if (o.Length) head.push('Content-Length', String(Buffer.concat(chunks).length));
    res.sendDate = false;
    res.writeHead(o.Status, head);
    for (const c of chunks) res.write(c);
    if (o.Trailer?.length) res.addTrailers(o.Trailer);
    res.end();
  });
}).listen(Number(process.argv[2]), '127.0.0.1');
`

// peers starts the backends, and returns the blocks that route to them.
func peers(t *testing.T) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(peer))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	p := ports(t, 5)[3:] // the first ones are the gateway's
	start(t, tool(t, "node"), write(t, filepath.Join(t.TempDir(), "peer.js"), nodePeer), fmt.Sprint(p[0]))
	dir := t.TempDir()
	conf := write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`
worker_processes 1; daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/err;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %[1]s/c; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream peer { server %[3]s; keepalive 8; }
  server {
    listen 127.0.0.1:%[2]d;
    ignore_invalid_headers off;
    merge_slashes off;
    location / {
      proxy_pass http://peer; proxy_http_version 1.1;
      proxy_set_header Host $http_host; proxy_set_header Connection "";
      proxy_pass_header Date; proxy_pass_header Server;
    }
  }
}`, dir, p[1], s.Listener.Addr()))
	start(t, tool(t, "nginx"), "-p", dir, "-c", conf)
	for _, port := range p {
		eventually(t, "peer", func() error { return dial(port) })
	}
	var b strings.Builder
	for _, p := range [][3]string{
		{"go", s.Listener.Addr().String(), "http1"}, {"h2c", s.Listener.Addr().String(), "h2c"},
		{"node", fmt.Sprintf("127.0.0.1:%d", p[0]), "http1"}, {"nginx", fmt.Sprintf("127.0.0.1:%d", p[1]), "http1"},
	} {
		fmt.Fprintf(&b, "service %q {\n instances = [%q]\n protocol = %q\n retry { attempts = 0 }\n outlier { errors = 0 }\n}\nroute %[1]q {\n hosts = [\"%[1]s.test\"]\n service = %[1]q\n}\n", p[0], p[1], p[2])
	}
	return b.String()
}

// withoutOurs leaves out the gateway's own fields, and those of one connection
// and of framing.
func withoutOurs(h map[string][]string) map[string][]string {
	for _, name := range []string{
		"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "keep-alive", "via", "forwarded",
		"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id",
	} {
		delete(h, name)
	}
	return h
}

// joinCookies does what each receiver of HTTP/2 does (RFC 9113, 8.2.3).
func joinCookies(v *view) {
	if c := v.Fields["cookie"]; len(c) > 1 {
		v.Fields["cookie"] = []string{strings.Join(c, "; ")}
	}
}

// compareSeen holds what a backend saw against what was sent.
func compareSeen(t *testing.T, peer, text string, want view, raw string) {
	t.Helper()
	var got view
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%s answers %q to\n%q", peer, text, raw)
	}
	withoutOurs(got.Fields)
	if peer == "nginx" {
		want.Trailer = map[string][]string{} // which it doesn't hand on
	}
	if peer == "h2c" {
		joinCookies(&want)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s reads this (+), sent was that (-):\n%s\n%.500q", peer, d, raw)
	}
}

// TestRoundTripRequests sends pipelined requests in HTTP/1.1.
func TestRoundTripRequests(t *testing.T) {
	real(t)
	gw := newGateway(t, peers(t)).start(t)
	for _, peer := range []string{"go", "h2c", "node", "nginx"} {
		t.Run(peer, func(t *testing.T) {
			gen := generator{rand.New(rand.NewPCG(1, 2))}
			for range 40 {
				var batch []wish
				var all strings.Builder
				for range 1 + gen.IntN(10) {
					w := gen.wish(peer + ".test")
					batch = append(batch, w)
					all.WriteString(w.raw)
				}
				c := gw.raw(t)
				done := make(chan error, 1)
				go func() {
					_, err := io.WriteString(c, all.String())
					done <- err
				}()
				r := bufio.NewReader(c)
				for _, w := range batch {
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Fatalf("%v: %q", err, w.raw)
					}
					b, err := io.ReadAll(resp.Body)
					if err != nil || resp.StatusCode != 200 {
						t.Fatalf("%s %s, %v: %q", resp.Status, b, err, w.raw)
					}
					compareSeen(t, peer, string(b), w.want, w.raw)
				}
				if err := soon(t, "requests sent", done); err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
			}
		})
	}
}

// TestRoundTripHTTP2 sends requests in HTTP/2.
func TestRoundTripHTTP2(t *testing.T) {
	real(t)
	gw := newGateway(t, peers(t)).start(t)
	c := gw.client(true)
	t.Cleanup(c.CloseIdleConnections)
	for _, peer := range []string{"go", "h2c", "node", "nginx"} {
		t.Run(peer, func(t *testing.T) {
			gen := generator{rand.New(rand.NewPCG(3, 4))}
			for range 150 {
				w := gen.wish(peer + ".test")
				parsed, err := http.ReadRequest(bufio.NewReader(strings.NewReader(w.raw)))
				if err != nil {
					t.Fatalf("%v: %q", err, w.raw)
				}
				body, err := io.ReadAll(parsed.Body)
				if err != nil {
					t.Fatal(err)
				}
				r := request(t, t.Context(), parsed.Method, "https://"+peer+".test/", bytes.NewReader(body))
				r.Host, r.Header = parsed.Host, parsed.Header
				// Opaque goes out as it stands, without scheme and host.
				r.URL.Opaque = "//" + r.Host + strings.TrimPrefix(parsed.RequestURI, "http://"+r.Host)
				if parsed.ContentLength < 0 {
					r.ContentLength = -1
				}
				for _, name := range []string{"User-Agent", "Accept-Encoding"} {
					if r.Header[name] == nil {
						r.Header[name] = []string{""} // or the client says its own
					}
				}
				if v := w.want.Trailer["x-t"]; v != nil && len(body) > 0 {
					r.Trailer = http.Header{"X-T": {octets(v[0])}}
				} else {
					w.want.Trailer = map[string][]string{}
				}
				resp, text := do(t, c, r)
				if resp.StatusCode != 200 {
					t.Fatalf("%s %s: %q", resp.Status, text, w.raw)
				}
				w.want.Fields["accept-encoding"] = []string{""}
				joinCookies(&w.want)
				compareSeen(t, peer, text, w.want, w.raw)
			}
		})
	}
}

// TestRoundTripResponses has the backends answer as they are told, and the
// clients of each protocol read it.
func TestRoundTripResponses(t *testing.T) {
	real(t)
	gw := newGateway(t, peers(t)).start(t)
	for _, c := range gw.clients(t) {
		for _, peer := range []string{"go", "h2c", "node", "nginx"} {
			t.Run(c.name+" from "+peer, func(t *testing.T) {
				gen := generator{rand.New(rand.NewPCG(5, 6))}
				for range 60 {
					o := gen.order()
					method := gen.pick("GET", "GET", "POST", "HEAD")
					text, err := json.Marshal(o)
					if err != nil {
						t.Fatal(err)
					}
					r := request(t, t.Context(), method, c.scheme+"://"+peer+".test/", nil)
					r.Header.Set("X-Answer", base64.StdEncoding.EncodeToString(text))
					r.Header.Set("Accept-Encoding", "identity") // or the client inflates
					r.Header.Set("TE", "trailers")
					resp, body := do(t, c.Client, r)
					compareAnswer(t, peer, method, o, resp, body)
				}
			})
		}
	}
}

// compareAnswer holds what a client got against what was ordered.
func compareAnswer(t *testing.T, peer, method string, o order, resp *http.Response, body string) {
	t.Helper()
	want := view{Line: fmt.Sprint(o.Status), Fields: map[string][]string{}, Trailer: map[string][]string{}}
	for _, f := range o.Fields {
		want.Fields[strings.ToLower(f[0])] = append(want.Fields[strings.ToLower(f[0])], f[1])
	}
	if method != "HEAD" {
		want.Body = strings.Join(o.Chunks, "")
		for _, f := range o.Trailer {
			want.Trailer[strings.ToLower(f[0])] = []string{f[1]}
		}
		if length := int64(len(octets(want.Body))); o.Length && resp.ContentLength != length {
			t.Errorf("%s: length %d, want %d", peer, resp.ContentLength, length)
		}
	}
	if peer == "nginx" {
		want.Trailer = map[string][]string{}
	}
	got := view{Line: fmt.Sprint(resp.StatusCode), Fields: withoutOurs(lowerFields(resp.Header)), Body: runes(body), Trailer: lowerFields(resp.Trailer)}
	for _, name := range []string{"date", "server", "alt-svc"} {
		delete(got.Fields, name)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("ordered from %s was this (-), %s got that (+):\n%s", peer, method, d)
	}
}
