package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// policyWorks are the costs of single policies: the same process without them,
// and what the peers have that does the same. Sidegate's routes are told apart
// by Host, the peers' servers by port.
func (b *bed) policyWorks() []work {
	one := func(name, goal, host string, headers []string, peers ...string) work {
		return work{
			name: "HTTP/1.1 plain, " + name, goal: goal, tool: "wrk", path: "/small", conns: 64, headers: headers,
			run: append([]string{"sidegate-each:plain@" + host, "sidegate-each:plain@bare"}, peers...),
		}
	}
	key := []string{"X-API-Key: " + apiKey}
	login := []string{"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("acme:"+apiPassword))}
	token := []string{"Authorization: Bearer " + b.token}
	text := func(name, goal, host, coding string, peers ...string) work {
		w := one(name, goal, host, []string{"Accept-Encoding: " + coding}, peers...)
		w.path = "/text"
		return w
	}
	hit := func(name, goal, host, path string, conns int, headers []string, peers ...string) work {
		w := one("a hit of the cache, "+name, goal, host, headers, peers...)
		w.path, w.conns = path, conns
		return w
	}
	return []work{
		one("API key", "", "key", key, "nginx-each:key", "haproxy-each:key"),
		one("basic authentication", "", "basic", login, "nginx-each:basic", "haproxy-each:basic"),
		one("JWT, RS256", "1.2, -", "jwt", token, "haproxy-each:jwt"),
		one("condition on request and claims", "", "authorize", token),
		one("forward, no cache", "", "forward", nil, "nginx-each:forward"),
		one("rate limit by address", "", "limit", nil, "nginx-each:limit", "haproxy-each:limit"),
		one("quota by address", "", "quota", nil),
		one("charge, mode event", "", "charge-event", nil),
		one("charge, mode lease", "", "charge-lease", nil),
		one("in flight by address", "", "flight", nil, "nginx-each:flight", "haproxy-each:flight"),
		one("100,000 denied networks", "", "block", nil, "nginx-each:block", "haproxy-each:block"),
		one("ban", "", "ban", nil),
		one("waf, paranoia 1", "", "waf", nil),
		one("OpenAPI document", "", "validate", nil),
		one("rate limit of all nodes, in Redis", "", "shared", nil),
		one("cors", "", "cors", []string{"Origin: https://app.example.com"}),
		one("API key, rate limit, 100,000 networks", "1.15, -, -", "all", key, "nginx-each:all", "haproxy-each:all"),
		{
			name: "HTTP/1.1 plain, API key, usage counted", goal: "1.02", tool: "wrk", path: "/small", conns: 64, headers: key,
			run: []string{"sidegate-usage:plain@key", "sidegate-each:plain@key"},
		},
		hit("1 KiB", "0.6, 1.0, 1.0", "cache", "/kib", 64, nil, "nginx-each:cache", "varnish:plain"),
		hit("1 MiB", "-, 1.1, -", "cache", "/large", 16, nil, "nginx-each:cache", "varnish:plain"),
		hit("20 kB of JSON, gzip", "-, 1.0, -", "packed", "/text", 64, []string{"Accept-Encoding: gzip"}, "nginx-each:packed", "varnish:plain"),
		text("20 kB of JSON, gzip", "", "compress", "gzip", "nginx-each:gzip", "haproxy-each:gzip"),
		text("20 kB of JSON, br against gzip", "", "compress", "br, gzip;q=0.5", "nginx-each:gzip"),
		text("20 kB of JSON, zstd against gzip", "", "compress", "zstd, gzip;q=0.5", "nginx-each:gzip"),
	}
}

// eachPorts are the peers' servers, one for each policy.
var eachPorts = []string{"key", "basic", "jwt", "forward", "limit", "flight", "block", "all", "gzip", "cache", "packed", "log"}

const apiPassword = "correct-horse-battery-staple"

// passwordHash is apiPassword's, bcrypt of cost 10: what it costs is the first
// check, which is before a round counts.
const passwordHash = "$2y$10$qiSaQ.6wP52QJiZ4BskKd.KOYtIilKuE.UxIf/nhx0s4r85S7wVAO"

const redisConf = `
bind 127.0.0.1
port {{.Redis}}
save ""
dir {{.Dir}}
logfile {{.Dir}}/redis.log
`

const nginxEachConf = `
worker_processes 1; daemon off; master_process off; pid {{.Dir}}/nginx-each.pid; error_log {{.Dir}}/nginx-each.err;
events { worker_connections 4096; }
http {
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600;
  client_body_temp_path {{.Dir}}/ec; proxy_temp_path {{.Dir}}/ep; fastcgi_temp_path {{.Dir}}/ef; uwsgi_temp_path {{.Dir}}/eu; scgi_temp_path {{.Dir}}/es;
  upstream backend { server 127.0.0.1:{{.Backend}}; keepalive 256; keepalive_requests 1000000000; }
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
  limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;
  limit_conn_zone $binary_remote_addr zone=flight:10m;
  map $http_x_api_key $consumer { default ""; {{.APIKey}} acme; }
  proxy_cache_path {{.Dir}}/cache keys_zone=answers:10m;
  geo $denied { default 0; include {{.Dir}}/denied.nginx; }
  server { listen 127.0.0.1:{{.Ports.plain}} backlog=4096; location / { proxy_pass http://backend; } }
  server { listen 127.0.0.1:{{.Ports.key}} backlog=4096; location / { if ($consumer = "") { return 401; } proxy_pass http://backend; } }
  server { listen 127.0.0.1:{{.Ports.log}} backlog=4096; access_log {{.Dir}}/nginx-log.log combined; location / { proxy_pass http://backend; } }
  server { listen 127.0.0.1:{{.Ports.basic}} backlog=4096; auth_basic api; auth_basic_user_file {{.Dir}}/passwords.nginx; location / { proxy_pass http://backend; } }
  server {
    listen 127.0.0.1:{{.Ports.forward}} backlog=4096;
    location / { auth_request /check; proxy_pass http://backend; }
    location = /check { internal; proxy_pass http://backend/check; proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_set_header X-Forwarded-Uri $request_uri; }
  }
  server { listen 127.0.0.1:{{.Ports.limit}} backlog=4096; limit_req zone=clients burst=10000 nodelay; location / { proxy_pass http://backend; } }
  server { listen 127.0.0.1:{{.Ports.flight}} backlog=4096; limit_conn flight 1000; location / { proxy_pass http://backend; } }
  server { listen 127.0.0.1:{{.Ports.cache}} backlog=4096; location / { proxy_pass http://backend; proxy_cache answers; proxy_cache_valid 200 1h; sendfile on; open_file_cache max=100; } }
  server {
    listen 127.0.0.1:{{.Ports.packed}} backlog=4096; gzip on; gzip_types application/json; gzip_proxied any; gzip_vary on;
    location / { proxy_pass http://backend; proxy_cache answers; proxy_cache_valid 200 1h; }
  }
  server { listen 127.0.0.1:{{.Ports.block}} backlog=4096; location / { if ($denied) { return 403; } proxy_pass http://backend; } }
  server { listen 127.0.0.1:{{.Ports.gzip}} backlog=4096; gzip on; gzip_types application/json; gzip_proxied any; gzip_vary on; location / { proxy_pass http://backend; } }
  server {
    listen 127.0.0.1:{{.Ports.all}} backlog=4096; limit_req zone=clients burst=10000 nodelay;
    location / { if ($denied) { return 403; } if ($consumer = "") { return 401; } proxy_pass http://backend; }
  }
}`

const haproxyEachConf = `
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  http-reuse always
  option forwardfor
  default_backend b
userlist passwords
  user acme insecure-password {{.Password}}
frontend plain
  bind 127.0.0.1:{{.Ports.plain}}
  http-request set-header X-Forwarded-Proto http
frontend key
  bind 127.0.0.1:{{.Ports.key}}
  http-request set-header X-Forwarded-Proto http
  http-request deny deny_status 401 unless { req.hdr(X-API-Key) -m str {{.APIKey}} }
frontend basic
  bind 127.0.0.1:{{.Ports.basic}}
  http-request set-header X-Forwarded-Proto http
  http-request auth unless { http_auth(passwords) }
frontend jwt
  bind 127.0.0.1:{{.Ports.jwt}}
  http-request set-header X-Forwarded-Proto http
  http-request set-var(txn.token) http_auth_bearer
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless { var(txn.token),jwt_header_query('$.alg') -m str RS256 }
  http-request deny deny_status 401 unless { var(txn.token),jwt_payload_query('$.iss') -m str {{.Issuer}} }
  http-request deny deny_status 401 unless { var(txn.token),jwt_payload_query('$.aud') -m str api }
  http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
  http-request deny deny_status 401 if { var(txn.exp),sub(txn.now) -m int lt 0 }
  http-request deny deny_status 401 unless { var(txn.token),jwt_verify(RS256,"{{.Dir}}/jwt.pub") -m int 1 }
frontend limit
  bind 127.0.0.1:{{.Ports.limit}}
  http-request set-header X-Forwarded-Proto http
  stick-table type ip size 100k expire 1m store http_req_rate(1s)
  http-request track-sc0 src
  http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1000000 }
frontend flight
  bind 127.0.0.1:{{.Ports.flight}}
  http-request set-header X-Forwarded-Proto http
  stick-table type ip size 100k expire 1m store conn_cur
  http-request track-sc0 src
  http-request deny deny_status 429 if { sc_conn_cur(0) gt 1000 }
frontend block
  bind 127.0.0.1:{{.Ports.block}}
  http-request set-header X-Forwarded-Proto http
  http-request deny if { src -f {{.Dir}}/denied.txt }
frontend gzip
  bind 127.0.0.1:{{.Ports.gzip}}
  http-request set-header X-Forwarded-Proto http
  compression algo gzip
  compression type application/json
frontend all
  bind 127.0.0.1:{{.Ports.all}}
  http-request set-header X-Forwarded-Proto http
  stick-table type ip size 100k expire 1m store http_req_rate(1s)
  http-request deny if { src -f {{.Dir}}/denied.txt }
  http-request track-sc0 src
  http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1000000 }
  http-request deny deny_status 401 unless { req.hdr(X-API-Key) -m str {{.APIKey}} }
backend b
  server s 127.0.0.1:{{.Backend}} maxconn 4096
`

const sidegateEachConf = `
state_dir = "{{.Dir}}/state-{{.Name}}"
log { level = "warn" }
admin { address = "127.0.0.1:0" }
listener "plain" {
  address = "127.0.0.1:{{.Ports.plain}}"
  tls     = false
  limits { connections_per_ip = 20000 }
}
service "backend" { instances = ["127.0.0.1:{{.Backend}}"] }
redis { address = "127.0.0.1:{{.Redis}}" }
{{if eq .Name "sidegate-usage"}}usage {}{{end}}
consumer "acme" {
  api_key { sha256 = "{{.APIKeySum}}" }
  basic {
    user   = "acme"
    bcrypt = "{{.PasswordHash}}"
  }
  jwt { subject = "acme" }
}
policy "key" {
  auth "api_key" { header = "X-API-Key" }
}
policy "jwt" {
  auth "jwt" {
    issuer   = "{{.Issuer}}"
    audience = ["api"]
    jwks     = "http://127.0.0.1:{{.Backend}}/jwks"
  }
}
policy "limit" {
  rate_limit {
    rate  = "1000000/s"
    burst = 10000
    by    = "client_ip"
  }
}
policy "block" {
  block { deny_file = "{{.Dir}}/denied.txt" }
}
policy "basic" {
  auth "basic" { realm = "api" }
}
policy "authorize" {
  authorize = "'orders:write' in claims.scope.split(' ') && request.method == 'GET'"
}
policy "forward" {
  auth "forward" { url = "http://127.0.0.1:{{.Backend}}/check" }
}
policy "quota" {
  quota {
    limit = "1000000000000/month"
    by    = "client_ip"
  }
}
policy "charge-event" {
  charge {
    meter   = "requests"
    service = "backend"
    mode    = "event"
  }
}
policy "charge-lease" {
  charge {
    meter   = "requests"
    service = "backend"
    mode    = "lease"
    lease   = "1000000"
  }
}
policy "flight" {
  limits { requests_per_ip = 1000 }
}
policy "waf" {
  waf { mode = "block" }
}
policy "validate" {
  validate { openapi = "{{.Dir}}/api.yaml" }
}
policy "shared" {
  rate_limit {
    rate   = "1000000/s"
    burst  = 10000
    by     = "client_ip"
    shared = true
  }
}
policy "cache" {
  cache { default_ttl = "1h" }
}
policy "ban" {
  ban {
    after  = 20
    window = "1m"
    for    = "10m"
  }
}
policy "cors" {
  cors { origins = ["https://app.example.com"] }
}
policy "compress" {
  compress {}
}
{{range $host, $use := .Routes}}
route "{{$host}}" {
  hosts   = ["{{$host}}"]
  service = "backend"
  use     = [{{$use}}]
}
{{end}}
`

// apiDocument describes the works' only path.
const apiDocument = `openapi: 3.1.0
info: {title: bench, version: "1"}
paths:
  /small:
    get:
      parameters:
        - {name: limit, in: query, schema: {type: integer, maximum: 100}}
      responses: {"200": {description: a small answer}}
`

// eachRoutes are the hosts of sidegateEachConf and the bundles of their routes.
func eachRoutes() map[string]string {
	routes := map[string]string{"bare": "", "packed": `"cache", "compress"`, "all": `"block", "key", "limit"`, "authorize": `"jwt", "authorize"`}
	for _, name := range []string{"key", "basic", "jwt", "forward", "limit", "quota", "charge-event", "charge-lease", "flight", "block", "waf", "validate", "shared", "ban", "cors", "compress", "cache"} {
		routes[name] = `"` + name + `"`
	}
	return routes
}

// issuer is what signs the token; nobody resolves it.
const issuer = "https://id.example.com/"

// credentials writes what the configurations of policies read: a list of
// 100,000 networks that nobody calls from, a password file, an issuer's keys.
func (b *bed) credentials() error {
	var plain, nginx strings.Builder
	for i := range 100000 {
		network := fmt.Sprintf("%d.%d.%d.%d/27", 11+i>>17, i>>11&255, i>>3&255, i&7<<5)
		fmt.Fprintln(&plain, network)
		fmt.Fprintln(&nginx, network, "1;")
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	b.token, err = sign(key)
	if err != nil {
		return err
	}
	keys, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig",
		"n": base64url(key.N.Bytes()), "e": base64url(big.NewInt(int64(key.E)).Bytes()),
	}}})
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	write := func(name, text string) error {
		return os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644)
	}
	return errors.Join(
		write("api.yaml", apiDocument),
		write("denied.txt", plain.String()), write("denied.nginx", nginx.String()),
		write("passwords.nginx", "acme:{PLAIN}"+apiPassword+"\n"),
		write("jwks", string(keys)), write("jwt.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))),
	)
}

// sign makes a token of the usual size.
func sign(key *rsa.PrivateKey) (string, error) {
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "aud": "api", "sub": "acme", "exp": time.Now().Add(24 * time.Hour).Unix(), "scope": "orders:read orders:write",
	})
	if err != nil {
		return "", err
	}
	text := base64url([]byte(`{"alg":"RS256","kid":"1","typ":"JWT"}`)) + "." + base64url(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	return text + "." + base64url(sig), err
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// orders is JSON of about n bytes, as an API answers it.
func orders(n int) []byte {
	b := []byte("[")
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		b = fmt.Appendf(b, `{"id":"%x","sku":"AB-%04d","customer":"acme","count":%d,"price":%d.%02d,"tags":["new","eu"],"active":%t},`,
			sum[:8], i*31%10000, sum[8]%9, sum[9], sum[10]%100, sum[11]%2 == 0)
	}
	return append(b[:len(b)-1], ']')
}
