sidecar "orders" {
  app             = "127.0.0.1:8081"
  listen          = "127.0.0.1:0"
  tags            = ["v1"]
  deregister_wait = "1s"
  check {
    http     = "/"
    interval = "3s"
  }
  upstream "billing" {
    listen = "127.0.0.1:9191"
  }
}
