# Every block with its usual arguments. None is needed: the smallest useful
# file is one route with hosts and service. Most of what stands here is what
# holds without it; the reference has every argument, its type and its default.

log { # on stderr, so journald keeps it
  level  = "info"
  format = "json"
}
access_log {        # off when the block is absent
  output = "stdout" # or a file; rotate it and send SIGUSR1
  format = "json"   # or combined, Apache's
  fields = ["time", "client_ip", "method", "host", "path", "query", "status", "route", "service", "consumer", "bytes_out", "duration_ms", "trace_id", "header.X-Tenant", "response.Content-Type"]
  redact = ["token", "email"] # query parameters whose values are ***; "*", which holds without it, hides all
  sample = 1.0                # of what didn't fail
}
audit_log {         # what waf finds; off when the block is absent
  output = "stderr" # or a file
}
tracing {                                # absent: no traces
  endpoint     = "http://127.0.0.1:4318" # OTLP over HTTP
  sample       = 0.01                    # of the traces that don't begin with a trusted proxy
  service_name = "edge"
  timeout      = "10s"
  # headers = { "Authorization" = env("OTLP_AUTHORIZATION") }
}
usage {               # who uses what; off when the block is absent
  database       = "" # usage.db in state_dir
  flush          = "10s"
  retain         = "400d" # days
  retain_hours   = "60d"
  retain_minutes = "48h"
}
state_dir       = "/var/lib/sidegate" # certificates, last known instances, usage
drain           = "30s"               # how long shutdown waits for requests in flight
memory_limit    = "2GiB"              # beside MemoryMax and MemoryHigh of the unit; 503 before it is used up
trusted_proxies = ["10.0.0.0/8"]      # whose X-Forwarded-For / Forwarded / PROXY counts

admin { # JSON API, /metrics, /healthz, /readyz
  address = "127.0.0.1:9901"
  # token = file("/etc/sidegate/admin.token") # needed on any address that isn't loopback
}

consul { # absent: CONSUL_HTTP_ADDR & co., else no Consul
  address = "127.0.0.1:8500"
  # token = file("/etc/sidegate/consul.token")
  kv = "sidegate/" # routes, services and consumers may live in KV too
  expose {         # what registrations may claim by themselves
    hosts = ["*.example.com"]
    use   = ["public-api"] # policies put on each such route
  }
}

redis {                          # where limits of all nodes count together; absent: by leases from Consul's KV
  address     = "127.0.0.1:6379" # or unix:///run/redis.sock
  db          = 0
  timeout     = "50ms" # how long a request waits for it
  connections = 64
  # username = "sidegate" and password = file("/etc/sidegate/redis.password")
  # tls { ca_file = "redis-ca.pem" }
}

tls {
  storage = "file"
  acme {
    email       = "ops@example.com"
    directory   = "https://acme-v02.api.letsencrypt.org/directory"
    ca_file     = "" # extra root for a private ACME server
    challenges  = ["tls-alpn-01", "http-01"]
    check_every = "10m" # how often to look for due renewals
  }
  # certificate { # wins over ACME for the names it covers; reloaded on change
  #   cert_file = "a.pem"
  #   key_file  = "a.key"
  # }
  on_demand { ask = "http://127.0.0.1:8081/allowed" } # names not in any route, only if this says 200
  min_version = "1.2"
} # localhost, IPs, *.internal, *.test: own local CA

listener "https" {
  address        = ":443"
  tls            = true               # false: plain; h2 is then h2c by prior knowledge
  protocols      = ["h1", "h2", "h3"] # h3 opens the same UDP port and sends Alt-Svc
  early_data     = false              # 0-RTT over HTTP/3, for GET, HEAD and OPTIONS
  client_ca_file = ""                 # asks for client certificates
  proxy_protocol = false
  limits {
    headers            = "32KiB"
    connections_per_ip = 1024
  }
}
listener "http" { # answers ACME HTTP-01 first
  address        = ":80"
  tls            = false
  redirect_https = true
}
# no listener block at all: exactly these two

service "orders" { # how to reach a Consul service; implied by its first use in a route
  consul {
    name        = "orders"
    tags        = ["v2"]
    filter      = "Service.Meta.tier == \"gold\""
    datacenters = ["dc1", "dc2"]
  }
  protocol     = "https" # http1 | h2c | https | h2
  balance      = "ewma"  # ewma (two choices, peak EWMA) | round_robin | least_request | random | hash
  prefer_local = true    # instances on this host first; spills over when they fail or fill up
  slow_start   = "10s"
  sticky { cookie = "srv" }
  health_check { # on top of Consul's checks
    path     = "/healthz"
    interval = "5s"
    timeout  = "2s"
    rise     = 2
    fall     = 3
  }
  outlier {
    errors      = 5
    window      = "10s"
    eject       = "30s"
    max_ejected = 0.5
  }
  limits {
    connections = 1024
    requests    = 1024
    queue       = 128
    adaptive    = true # the latency says how many at once; beyond that 503, low priority first
  }
  timeouts {
    connect    = "2s"
    first_byte = "30s"
    idle       = "60s"
    total      = "0s"
  }
  retry {
    attempts = 2
    on       = ["connect", "reset", "502", "503", "504"]
    budget   = 0.2
  }
  tls {
    server_name = "orders.internal"
    ca_file     = ""
    cert_file   = ""
    key_file    = ""
    insecure    = false
  }
}
service "carts" {
  instances = ["127.0.0.1:9001", "10.0.0.7:9001"]
  balance   = "hash"
  hash_by   = "header:X-User" # header:, cookie:, query:, client_ip or consumer
}

policy "public-api" { # a named bundle of policy blocks; routes take it with use = [...]
  block {
    deny = ["198.51.100.0/24"] # deny_file = "deny.txt" for long lists; read again when it changes
    # countries = ["KP"] with country_file = "/usr/share/GeoIP/GeoLite2-Country.mmdb", or asns with asn_file
    user_agents = ["~(?i)sqlmap"]
  }
  ban {
    after    = 20
    window   = "1m"
    statuses = [401, 403, 404, 429]
    abuse    = 5     # connections closed for floods, resets, malformed messages
    for      = "10m" # the first time; then twice as long each time
    longest  = "24h"

    waf_after = 1 # so many requests that waf has refused ban, too; 0: none does
  }
  waf {                 # OWASP Core Rule Set through Coraza
    mode      = "block" # detect only counts and logs; off is for a route whose bundle has a waf
    paranoia  = 1
    threshold = 5
    body      = "128KiB" # of it so much is inspected
    beyond    = "refuse" # or pass: what is longer passes, the rest unseen
    arguments = 1000

    uninspected = ["image/*", "application/grpc"] # their bodies pass unseen
    exclude {                                     # rules that are wrong here, by id, range or tag
      rules   = ["942100-942199", "attack-xss"]
      targets = ["ARGS:q"] # without targets, they don't run at all
    }
  }
  cors {
    origins     = ["https://app.example.com", "https://*.example.org"] # or "*", never with credentials
    credentials = true
    expose      = ["RateLimit", "Retry-After"]
    max_age     = "10m"
  }
  rate_limit {
    rate  = "100/s"
    burst = 200
    by    = "client_ip"
  }
  response {
    set = { "Strict-Transport-Security" = "max-age=31536000" }
  }
  compress {
    encodings  = ["zstd", "br", "gzip"] # in the order of preference
    min_length = "1KiB"
    cross_site = false # not for other sites' pages that come with the user's cookies
  }
}

route "orders-v2" {
  hosts   = ["api.example.com", "*.eu.example.com"]
  paths   = ["/orders/*", "/orders/{id}/items"] # exact, or a prefix ending in /*, or with parameters
  methods = ["GET", "POST"]
  headers = { "Accept" = "*application/vnd.acme.v2+json*" } # exact, with * at the ends, or "~RE2"
  query   = { "version" = "2" }

  service = "orders" # exactly one of: service, split, redirect, respond

  priority     = "high" # shed last; low | normal | high
  use          = ["public-api"]
  strip_prefix = "/orders" # the match stays on the original path
  mirror {
    service = "orders-shadow"
    percent = 10
  }
  sunset {
    date       = "2027-06-30"
    deprecated = "2027-01-01"
    link       = "https://docs.example.com/v2"
  }

  # policy blocks; they always run in one order, whatever their order here
  limits { # within the listener's
    body                  = "10MiB"
    headers               = "16KiB"
    uri                   = "2KiB"
    requests              = 512 # in flight
    requests_per_ip       = 32
    requests_per_consumer = 64
    connections_per_ip    = 16
  }
  auth "api_key" { header = "X-API-Key" } # several auth blocks: the first that applies decides
  auth "jwt" {
    issuer     = "https://id.example.com/"
    audience   = ["api"]
    jwks       = "https://id.example.com/jwks" # absent: as the issuer's discovery document says
    algorithms = ["RS256", "ES256"]
    subject    = "sub"                   # the claim that says who it is
    labels     = { team = "department" } # labels out of claims
    unlisted   = false                   # true: who isn't in the files is a consumer, too
  }
  auth "introspect" { # tokens that only their server understands (RFC 7662)
    url           = "https://id.example.com/introspect"
    client_id     = "gateway"
    client_secret = env("INTROSPECT_SECRET")
    issuer        = "https://id.example.com/"
    cache         = "30s"
  }
  auth "basic" { realm = "api" }
  # auth "forward" { url = "http://127.0.0.1:4180/check" } # another service decides; see the route "reports"
  # auth "mtls" {} # certificates that a listener with client_ca_file asks for
  authorize = "!has(claims.scope) || 'orders:write' in claims.scope.split(' ') || request.method == 'GET'"
  rate_limit { # several allowed: all must admit a request
    rate = "5000/m"
    by   = "consumer" # client_ip, consumer, header:, cookie:, query:, param: (of the path), claim:, cel: or route
    cost = "request.method == 'POST' ? 5 : 1"
    # rate_claim = "rate" and rate_max = "1000/s": a token may say its own rate
    shared    = true    # on all nodes together, in Redis or by leases from Consul's KV
    when_down = "local" # or deny, or allow
    share     = 0.5     # of the limit, for a node that is on its own
  }
  quota {                   # in a period of the calendar, UTC; over restarts and crashes
    limit = "1000000/month" # by h, day or month
    by    = "consumer"
    # name = "search": together with the quotas of that name on other routes
    # cost = "…", as with rate_limit
  }
  validate {
    openapi   = "orders.yaml" # OpenAPI 3.1 or 3.0; read again when it changes
    mode      = "block"       # report: in the log and in metrics only
    strict    = true          # refuse query parameters that it doesn't have
    responses = "report"      # off unless given
    sample    = 0.1
  }
  cache { # as answers say, and where they don't:
    default_ttl  = "30s"
    negative_ttl = "5s"
    # override_ttl = "1m" # whatever they say; never against private, no-store, cookies
    max_object             = "1MiB"
    key                    = ["host", "path", "query", "header.X-Tenant"]
    when                   = "!request.path.startsWith('/orders/live')"
    stale_while_revalidate = "30s"
    stale_if_error         = "10m"
  }
  charge { # what an answer costs; the billing service keeps account of it
    meter     = "search"
    units     = "1" # or CEL: "int(response.headers['x-tokens'])", with an estimate before
    service   = "billing"
    path      = "/charges"
    mode      = "reserve" # event: told afterwards; lease: blocks that are spent without asking
    when_down = "owe"     # deny: 503; allow: served for nothing
    credit    = "1000"    # as much of that as a consumer may have
  }
  request {
    set    = { "X-Tenant" = "{consumer.name}" }
    add    = {}
    remove = ["Cookie"]
  }
  response {
    set    = {}
    remove = ["Server"]
  }
}
route "carts" {
  hosts = ["shop.example.com"]
  split = { "carts" = 95, "carts-next" = 5 }
}
route "reports" { # who may read them, another service says
  hosts   = ["reports.example.com"]
  service = "reports"
  auth "forward" {
    url      = "http://127.0.0.1:4180/check"
    headers  = ["Authorization", "Cookie", "Accept", "X-Requested-With"] # what it gets
    copy     = ["X-User"]                                                # what the service behind gets of its answer
    consumer = "X-Consumer"
    cache    = "10s"
    key      = ["method", "scheme", "host", "path", "query", "client_ip"] # what the answer depends on, beside headers
    timeout  = "2s"
  }
}
route "app" { # people log in with a browser; https://app.example.com/.sidegate/oidc/callback is the redirect URI
  hosts   = ["app.example.com"]
  service = "app"
  auth "oidc" {
    issuer        = "https://id.example.com/"
    client_id     = "gateway"
    client_secret = env("OIDC_SECRET")
    scopes        = ["openid", "email", "offline_access"]
    subject       = "email"
    unlisted      = true
    # cookie_secret = env("COOKIE_SECRET"): the same on all nodes; absent: a key of this node's own
    session      = "8h"
    callback     = "/.sidegate/oidc/callback"
    logout       = "/.sidegate/oidc/logout"
    after_logout = "/bye"
    parameters   = { prompt = "select_account" }
    forward      = false # true: the service gets the access token
  }
  request {
    set = { "X-User" = "{consumer.name}" }
  }
}
route "moved" {
  hosts = ["old.example.com"]
  redirect {
    to     = "https://shop.example.com{path}{query}"
    status = 308
  }
}
route "hello" {
  hosts = ["hello.example.com"]
  respond {
    status  = 200
    body    = "ok"
    headers = { "Cache-Control" = "no-store" }
  }
}

cache { # for all routes' cache blocks together
  memory = "256MiB"
  disk   = "10GiB" # in the folder cache of state_dir; outlives a restart
}
charges {
  spool    = "256MiB" # on the disk, for what billing services don't know yet
  patience = "168h"   # until what they can't be told is a dead letter
}
counters {
  memory        = "64MiB" # for rate limits: 16 bytes for each client of each
  quota_clients = 100000
}
policy "gold" {
  authorize = "request.method != 'TRACE'"
}
plan "gold" { # in the place of the limits by consumer
  rate     = "500/s"
  quota    = "10000000/month" # on all routes together
  priority = "high"           # in the place of the routes'
  use      = ["gold"]         # what else holds for its consumers, on all routes
}
consumer "acme" {
  plan   = "gold"
  labels = { team = "search" }
  api_key { sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" } # printf %s "$KEY" | sha256sum; or sidegate key create acme, with nothing here
  api_key {
    sha256  = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    expires = "2027-06-30" # from the beginning of that day on (UTC); or a time, 2027-06-30T18:00:00Z
  }
  basic {
    user   = "acme"
    bcrypt = "$2y$10$5N9Z1eQ3l4Tn0mFkzVZxaOQ9uS3v4yqQm4pPpN0G3tF7yVnX1l7by" # htpasswd -nBC 10 acme
  }
  mtls { san = "spiffe://example.com/acme" } # or a DNS name, or an e-mail address
  jwt { subject = "acme-client" }            # what sub says in tokens of the issuer
}
