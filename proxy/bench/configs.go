package main

// The peers' configurations are what their operators would write for speed:
// one worker, connections to the backend kept, no logs, TLS 1.3 with an ECDSA
// P-256 certificate.

const backendConf = `
worker_processes 1; daemon off; master_process off; pid {{.Dir}}/backend.pid; error_log {{.Dir}}/backend.err;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000; open_file_cache max=10;
  client_body_temp_path {{.Dir}}/bc; proxy_temp_path {{.Dir}}/bp; fastcgi_temp_path {{.Dir}}/bf; uwsgi_temp_path {{.Dir}}/bu; scgi_temp_path {{.Dir}}/bs;
  server {
    listen 127.0.0.1:{{.Backend}} backlog=4096;
    location = /small { return 200 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"; }
    location = /large { root {{.Dir}}; }
  }
}`

const nginxConf = `
worker_processes 1; daemon off; master_process off; pid {{.Dir}}/nginx.pid; error_log {{.Dir}}/nginx.err;
events { worker_connections 4096; }
http {
  access_log off; tcp_nodelay on; keepalive_requests 1000000000;
  client_body_temp_path {{.Dir}}/nc; proxy_temp_path {{.Dir}}/np; fastcgi_temp_path {{.Dir}}/nf; uwsgi_temp_path {{.Dir}}/nu; scgi_temp_path {{.Dir}}/ns;
  upstream backend { server 127.0.0.1:{{.Backend}}; keepalive 256; keepalive_requests 1000000000; }
  ssl_certificate {{.Cert}}; ssl_certificate_key {{.Key}}; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:s:10m;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
  proxy_buffers 8 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
  http2_max_requests 1000000000; http2_max_concurrent_streams 128;
  server { listen 127.0.0.1:{{.Plain}} backlog=4096; location / { proxy_pass http://backend; } }
  server { listen 127.0.0.1:{{.Secure}} ssl http2 backlog=4096; location / { proxy_pass http://backend; } }
}`

const haproxyConf = `
global
  nbthread 1
  maxconn 4096
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
  option forwardfor
  option splice-auto
frontend plain
  bind 127.0.0.1:{{.Plain}}
  http-request set-header X-Forwarded-Proto http
  default_backend b
frontend secure
  bind 127.0.0.1:{{.Secure}} ssl crt {{.Both}} alpn h2,http/1.1
  http-request set-header X-Forwarded-Proto https
  default_backend b
backend b
  server s 127.0.0.1:{{.Backend}} maxconn 4096
`

const sidegateConf = `
state_dir = "{{.Dir}}/state"
log { level = "warn" }
admin { address = "127.0.0.1:0" }
tls {
  certificate {
    cert_file = "{{.Cert}}"
    key_file  = "{{.Key}}"
  }
}
listener "plain" {
  address   = "127.0.0.1:{{.Plain}}"
  tls       = false
  protocols = ["h1", "h2"]
}
listener "secure" {
  address   = "127.0.0.1:{{.Secure}}"
  protocols = ["h1", "h2"]
}
service "backend" { instances = ["127.0.0.1:{{.Backend}}"] }
route "all" { service = "backend" }
`
