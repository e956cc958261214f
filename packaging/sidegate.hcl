# The gateway's configuration. It starts as it is, with no routes. After an edit:
#
#   sidegate validate && systemctl reload sidegate
#
# Other files *.hcl in this folder are read, too. Every block and argument:
# /usr/share/doc/sidegate/reference.md

log {
  level  = "info"
  format = "json"
}

access_log {
  output = "stdout" # journalctl -u sidegate
}

# Dashboard, JSON API, /metrics, /healthz and /readyz; for this host only.
admin {
  address = "127.0.0.1:9901"
}

listener "https" {
  address   = ":443"
  protocols = ["h1", "h2", "h3"] # h3 is UDP on the same port
}

# Answers ACME challenges, and redirects the rest.
listener "http" {
  address        = ":80"
  tls            = false
  redirect_https = true
}

# Public hosts that routes name get certificates from Let's Encrypt; localhost,
# addresses, *.internal and *.test from this gateway's own authority
# (sidegate ca show).
#
# tls {
#   acme {
#     email = "ops@example.com"
#   }
# }

# Consul is asked when CONSUL_HTTP_ADDR is set in /etc/default/sidegate, or with
# this block. Registrations may then route themselves, within expose.
#
# consul {
#   address = "127.0.0.1:8500"
#   expose {
#     hosts = ["*.example.com"]
#   }
# }

# A first route: to the service "orders" of Consul, or to fixed instances.
#
# route "orders" {
#   hosts   = ["orders.example.com"]
#   service = "orders"
# }
#
# service "orders" {
#   instances = ["127.0.0.1:8080"]
# }
