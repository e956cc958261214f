# The sidecar of a service: /etc/sidegate/sidecars/orders.hcl, then
# systemctl enable --now sidegate@orders
#
# Beyond loopback it wants an identity, by which it calls others and others call it
# with TLS: /usr/share/doc/sidegate/identity.md
sidecar "orders" {
  app    = "127.0.0.1:8080" # or "unix:///run/orders/app.sock"
  listen = "127.0.0.1:8443" # what Consul announces; ":8443" for the agent's address
  tags   = ["sidegate.host=orders.example.com"]

  check {
    http = "/healthz"
  }

  # The app calls http://127.0.0.1:9191/ for the service billing, which the service
  # block says more about.
  upstream "billing" {
    listen = "127.0.0.1:9191"
  }
}

service "billing" {
  retry {
    attempts = 2
  }
}
