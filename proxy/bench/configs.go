package main

// The peers' configurations are what their operators would write for speed:
// one worker, connections to the backend kept, no logs but where a work says
// so, TLS 1.3 with an ECDSA P-256 certificate, buffers enlarged for large
// answers. The policies' limits are so high that nothing is refused; what is
// measured is the deciding.

const backendConf = `
worker_processes 1; daemon off; master_process off; pid {{.Dir}}/backend.pid; error_log {{.Dir}}/backend.err;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000; open_file_cache max=10;
  client_body_temp_path {{.Dir}}/bc; proxy_temp_path {{.Dir}}/bp; fastcgi_temp_path {{.Dir}}/bf; uwsgi_temp_path {{.Dir}}/bu; scgi_temp_path {{.Dir}}/bs;
  server {
    listen 127.0.0.1:{{.Backend}} backlog=4096;
    location = /small { return 200 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"; }
    location = /kib { root {{.Dir}}; }
    location = /large { root {{.Dir}}; }
    location = /text { root {{.Dir}}; default_type application/json; }
    location = /check { return 204; }
    location /charges { return 200 "{}"; }
    location = /v1/traces { return 200; }
    location = /jwks { root {{.Dir}}; default_type application/jwk-set+json; }
  }
}`

// varnishConf keeps what has no lifetime for an hour, and JSON as gzip.
const varnishConf = `
vcl 4.1;
backend default { .host = "127.0.0.1"; .port = "{{.Backend}}"; }
sub vcl_backend_response {
  set beresp.ttl = 1h;
  if (beresp.http.Content-Type ~ "json") { set beresp.do_gzip = true; }
}
`

const nginxConf = `
worker_processes 1; daemon off; master_process off; pid {{.Dir}}/nginx.pid; error_log {{.Dir}}/nginx.err;
worker_rlimit_nofile 20000;
events { worker_connections 15000; }
http {
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600;
  client_body_temp_path {{.Dir}}/nc; proxy_temp_path {{.Dir}}/np; fastcgi_temp_path {{.Dir}}/nf; uwsgi_temp_path {{.Dir}}/nu; scgi_temp_path {{.Dir}}/ns;
  upstream backend { server 127.0.0.1:{{.Backend}}; keepalive 256; keepalive_requests 1000000000; }
  ssl_certificate {{.Cert}}; ssl_certificate_key {{.Key}}; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:s:10m;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
  proxy_buffers 8 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
  http2_max_requests 1000000000; http2_max_concurrent_streams 128;
  server { listen 127.0.0.1:{{.Ports.plain}} backlog=4096; location / { proxy_pass http://backend; } }
  server { listen 127.0.0.1:{{.Ports.tls}} ssl http2 backlog=4096; location / { proxy_pass http://backend; } }
  limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;
  map $http_x_api_key $consumer { default ""; {{.APIKey}} acme; }
  server {
    listen 127.0.0.1:{{.Ports.policies}} backlog=4096; access_log {{.Dir}}/nginx-access.log combined;
    limit_req zone=clients burst=10000 nodelay;
    location / {
      if ($consumer = "") { return 401; }
      proxy_pass http://backend;
    }
  }
}`

const haproxyConf = `
global
  nbthread 1
  maxconn 9200
  maxpipes 500
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  http-reuse always
  option splice-auto
frontend plain
  bind 127.0.0.1:{{.Ports.plain}}
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  default_backend b
frontend secure
  bind 127.0.0.1:{{.Ports.tls}} ssl crt {{.Both}} alpn h2,http/1.1
  option forwardfor
  http-request set-header X-Forwarded-Proto https
  default_backend b
frontend policies
  bind 127.0.0.1:{{.Ports.policies}}
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  stick-table type ip size 100k expire 1m store http_req_rate(1s)
  http-request track-sc0 src
  http-request deny deny_status 429 if { sc_http_req_rate(0) gt 1000000 }
  http-request deny deny_status 401 unless { req.hdr(X-API-Key) -m str {{.APIKey}} }
  default_backend b
frontend relay
  mode tcp
  bind 127.0.0.1:{{.Ports.tcp}}
  default_backend t
backend b
  server s 127.0.0.1:{{.Backend}} maxconn 4096
backend t
  mode tcp
  server s 127.0.0.1:{{.Backend}} maxconn 4096
`

const caddyConf = `
{
	admin off
	persist_config off
	auto_https off
	storage file_system {{.Dir}}/caddy
}
https://127.0.0.1:{{.Ports.plain}} {
	bind 127.0.0.1
	tls {{.Cert}} {{.Key}}
	reverse_proxy 127.0.0.1:{{.Backend}} {
		transport http {
			keepalive_idle_conns 1024
			keepalive_idle_conns_per_host 1024
		}
	}
}
`

// The listener named quic stands apart so that the others needn't send Alt-Svc,
// which their peers don't send either.
const sidegateConf = `
state_dir = "{{.Dir}}/state-{{.Name}}"
log { level = "warn" }
admin { address = "127.0.0.1:0" }
{{if .Policies}}access_log { output = "{{.Dir}}/{{.Name}}-access.log" }{{end}}
{{if eq .Name "sidegate-json"}}access_log { output = "{{.Dir}}/{{.Name}}-access.log" }{{end}}
{{if eq .Name "sidegate-combined"}}
access_log {
  output = "{{.Dir}}/{{.Name}}-access.log"
  format = "combined"
}
{{end}}
{{if eq .Name "sidegate-trace"}}
tracing {
  endpoint = "http://127.0.0.1:{{.Backend}}"
  sample   = 0.01
}
{{end}}
{{if eq .Name "sidegate-trace-all"}}
tracing {
  endpoint = "http://127.0.0.1:{{.Backend}}"
  sample   = 1
}
{{end}}
tls {
  certificate {
    cert_file = "{{.Cert}}"
    key_file  = "{{.Key}}"
  }
}
listener "plain" {
  address   = "127.0.0.1:{{.Ports.plain}}"
  tls       = false
  protocols = ["h1", "h2"]
  limits {
    connections_per_ip = 20000
    idle_timeout       = "10m"
  }
}
listener "secure" {
  address   = "127.0.0.1:{{.Ports.tls}}"
  protocols = ["h1", "h2"]
  limits {
    connections_per_ip = 20000
    idle_timeout       = "10m"
  }
}
listener "quic" { address = "127.0.0.1:{{.Ports.quic}}" }
service "backend" { instances = ["127.0.0.1:{{.Backend}}"] }
{{if .Policies}}
consumer "acme" {
  api_key { sha256 = "{{.APIKeySum}}" }
}
route "all" {
  service = "backend"
  auth "api_key" { header = "X-API-Key" }
  rate_limit {
    rate  = "1000000/s"
    burst = 10000
    by    = "client_ip"
  }
}
{{else}}
route "all" { service = "backend" }
{{end}}
`
