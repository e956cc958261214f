sidecar "billing" {
  app             = "127.0.0.1:8082"
  listen          = "127.0.0.1:0"
  deregister_wait = "1s"
  check {
    interval = "3s"
  }
  upstream "orders" {
    listen = "unix:///run/sidegate/b/orders.sock"
  }
}
