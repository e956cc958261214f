# A sidecar beside the service orders: /etc/sidegate/sidecars/orders.hcl, run by
#   systemctl enable --now sidegate@orders
# The guide is packaging/doc/sidecar.md.

# Who the service is in the fleet; `sidegate ca` makes the files. Without it, what
# comes in is plain text, and anybody may call.
#
# identity {
#   ca_file   = "/etc/sidegate/fleet/ca.pem"
#   cert_file = "/etc/sidegate/fleet/orders.pem"
#   key_file  = "/etc/sidegate/fleet/orders.key"
# }

sidecar "orders" {
  app    = "127.0.0.1:8080" # or "unix:///run/orders/app.sock"
  listen = "127.0.0.1:8443" # what Consul announces: an address of this host, or ":8443"
  check {
    http     = "/healthz" # without it: does the app take connections?
    interval = "5s"
  }
  tags = ["v2"]
  use  = ["internal"]
  # allow = ["edge", "shop"] # with an identity: who may call

  # The app calls http://127.0.0.1:9191 for billing.
  upstream "billing" {
    listen = "127.0.0.1:9191"
  }
  # And http_proxy=http://127.0.0.1:9190 for http://NAME.service.consul.
  proxy = "127.0.0.1:9190"
}

# Policies on what comes in.
policy "internal" {
  rate_limit {
    rate = "500/s"
    by   = "client_ip"
  }
}

# How billing is called; without this block the defaults hold.
service "billing" {
  retry {
    attempts = 1
  }
  timeouts {
    first_byte = "5s"
  }
}
